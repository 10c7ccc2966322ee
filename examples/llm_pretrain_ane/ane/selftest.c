/* Each program on this machine's Neural Engine, or on the simulator: whether its text compiles in each dialect, how
 * long an evaluation takes, whether it gives what the CPU gives. Exits with 0 when every kernel runs on the device, 1
 * when one does not, 2 when there is no Neural Engine. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "arguments.h"
#include "device.h"
#include "gemm.h"
#include "mil.h"
#include "packing.h"
#include "settings.h"

enum { DIALECTS = DIALECT_M1 + 1, MOST_REPEATS = 100000 };

/* What came of one program. */
struct Row {
    struct Problem refused[DIALECTS]; /* empty where it compiles */
    double milliseconds;              /* of an evaluation, in the first dialect that compiles; NAN without */
};

static _Noreturn void end(const struct Problem *why) {
    fprintf(stderr, "selftest: %s\n", why->text);
    exit(2);
}

/* "D,F,H,S,L" */
static struct Shape read_shape(const char *text) {
    struct Shape shape = {.classes = 1};
    int *numbers[] = {&shape.dim, &shape.hidden, &shape.heads, &shape.seq, &shape.layers};
    enum { COUNT = sizeof numbers / sizeof *numbers };
    const char *at = text;
    struct Problem why;
    for (int i = 0; i < COUNT; i++) {
        char *rest;
        long number = strtol(at, &rest, 10);
        if (rest == at || *rest != (i + 1 < COUNT ? ',' : '\0') || number < 0 || number > INT_MAX) {
            problem(&why, "--shape is \"%.60s\", but must be five numbers such as 128,384,4,128,2", text);
            end(&why);
        }
        *numbers[i] = (int)number;
        at = rest + 1;
    }
    if (!architecture_check(shape.dim, shape.hidden, shape.heads, shape.heads, shape.seq, shape.layers,
                            "0000000000000000", &why))
        end(&why);
    return shape;
}

static void print_system(void) {
    struct utsname system;
    if (uname(&system) == 0)
        printf("system: %s %s %s\n", system.sysname, system.release, system.machine);
#ifdef __APPLE__
    char version[64], chip[128];
    size_t version_bytes = sizeof version, chip_bytes = sizeof chip;
    if (sysctlbyname("kern.osproductversion", version, &version_bytes, NULL, 0) == 0 &&
        sysctlbyname("machdep.cpu.brand_string", chip, &chip_bytes, NULL, 0) == 0)
        printf("macOS %s, %s\n", version, chip);
#endif
#if defined(__APPLE__) || defined(FRAMEWORK_PATH)
    char banner[200];
    ane_banner(banner, sizeof banner);
    printf("%s\n", banner);
#endif
}

static struct Executor open_executor(const char *backend, struct Pool *pool) {
    struct Executor executor = {0};
    struct Problem why;
    if (strcmp(backend, "sim") == 0)
        return sim_executor(pool);
    if (!ane_executor(&executor, &why)) {
        fprintf(stderr,
                "selftest: %s\n\nhint: make selftest OPTIONS=\"--backend sim\" runs the same programs on the CPU\n",
                why.text);
        exit(2);
    }
    return executor;
}

/* Milliseconds of an evaluation on an input of zeros, the mean of `repeats` after one; NAN with the problem. */
static double time_program(struct Executor *e, void *program, const size_t bytes[SIDES], int repeats,
                           struct Problem *why) {
    void *input = e->surface(e->self, bytes[INPUT], why);
    void *output = input ? e->surface(e->self, bytes[OUTPUT], why) : NULL;
    void *binding = output ? e->bind(e->self, program, input, output, why) : NULL;
    bool fine = binding && e->run(e->self, binding, why);
    double begin = seconds();
    for (int i = 0; fine && i < repeats; i++)
        fine = e->run(e->self, binding, why);
    double taken = 1000 * (seconds() - begin) / repeats;
    if (binding)
        e->unbind(e->self, binding);
    if (output)
        e->release(e->self, output);
    if (input)
        e->release(e->self, input);
    return fine ? taken : (double)NAN;
}

static struct Row try_program(struct Executor *e, enum ProgramId id, const struct Shape *shape, int repeats) {
    struct Row row = {.milliseconds = NAN};
    const struct Packing *packing = packing_of(id);
    const size_t bytes[SIDES] = {area_bytes(packing_whole(packing, INPUT, shape)),
                                 area_bytes(packing_whole(packing, OUTPUT, shape))};
    for (int dialect = 0; dialect < DIALECTS; dialect++) {
        struct Source source = mil_new(id, shape, (enum Dialect)dialect);
        struct Problem *why = &row.refused[dialect];
        why->text[0] = '\0';
        void *program = e->load(e->self, &source, why);
        mil_free(&source);
        if (!program)
            continue;
        if (isnan(row.milliseconds))
            row.milliseconds = time_program(e, program, bytes, repeats, why);
        e->unload(e->self, program);
    }
    return row;
}

static void print_number(int width, const char *format, double number) {
    char text[32] = "-";
    if (!isnan(number))
        snprintf(text, sizeof text, format, number);
    printf(" %*s", width, text);
}

static void print_rows(const struct Row *rows, const struct KernelReport *reports) {
    printf("\n%-11s %-12s %-12s %13s %-8s %s\n", "kernel", "text for M3", "text for M1", "ms/evaluation", "runs on",
           "largest error");
    for (int i = 0; i < PROGRAMS; i++) {
        printf("%-11s", reports[i].kernel);
        for (int dialect = 0; dialect < DIALECTS; dialect++)
            printf(" %-12s", rows[i].refused[dialect].text[0] ? "fails" : "compiles");
        print_number(13, "%.3f", rows[i].milliseconds);
        printf(" %-8s", reports[i].on_device ? "device" : "CPU");
        print_number(13, "%.2g", reports[i].error);
        printf("\n");
    }
    printf("\n");
}

/* Once where both dialects have the same one. */
static void print_problems(const struct Row *rows, const struct KernelReport *reports) {
    for (int i = 0; i < PROGRAMS; i++) {
        const char *newer = rows[i].refused[DIALECT_M3].text, *older = rows[i].refused[DIALECT_M1].text;
        bool same = strcmp(newer, older) == 0;
        if (*newer)
            printf("%s, %s: %s\n", reports[i].kernel, same ? "both texts" : "text for M3 and later", newer);
        if (*older && !same)
            printf("%s, text for M1 and M2: %s\n", reports[i].kernel, older);
    }
}

int main(int argc, char **argv) {
    const char *backend = "ane", *shape_text = "768,2048,12,512,1", *rope = "no";
    int64_t repeats = 20;
    const struct Argument options[] = {
        {"--backend", CHOICE, "ane|sim", &backend, 0, 0, "the Neural Engine, or its simulation on the CPU", 0},
        {"--shape", TEXT, "D,F,H,S,L", &shape_text, 0, 0, "dim, hidden, heads, seq, layers", 0},
        {"--rope", CHOICE, "no|yes", &rope, 0, 0, "with rotary positions", 0},
        {"--repeats", WHOLE, "N", &repeats, 1, MOST_REPEATS, "evaluations that are timed", 0},
    };
    arguments_read(argc, argv, "selftest", options, sizeof options / sizeof *options);
    struct Shape shape = read_shape(shape_text);
    shape.rope = strcmp(rope, "yes") == 0;
    struct Problem why;
    if (!gemm_use("auto", &why))
        end(&why);
    struct Pool *pool = pool_new(default_threads());
    print_system();
    struct Executor executor = open_executor(backend, pool);
    printf("backend %s, dim %d, hidden %d, heads %d, seq %d, layers %d, rope %s\n", backend, shape.dim, shape.hidden,
           shape.heads, shape.seq, shape.layers, rope);
    fflush(stdout); /* before notices */

    struct Row rows[PROGRAMS];
    for (int i = 0; i < PROGRAMS; i++)
        rows[i] = try_program(&executor, (enum ProgramId)i, &shape, (int)repeats);
    executor.close(executor.self);

    struct Kernels kernels, cpu = cpu_kernels(&shape, pool);
    if (!device_kernels(&kernels, open_executor(backend, pool), cpu, &shape, pool, false, NULL, &why))
        end(&why);
    struct KernelReport reports[PROGRAMS];
    device_reports(&kernels, reports, PROGRAMS);
    print_rows(rows, reports);
    print_problems(rows, reports);
    int there = 0;
    for (int i = 0; i < PROGRAMS; i++)
        there += reports[i].on_device;
    printf("%d of %d kernels run on the device\n", there, PROGRAMS);
    kernels.close(kernels.self);
    pool_free(pool);
    return there == PROGRAMS ? 0 : 1;
}
