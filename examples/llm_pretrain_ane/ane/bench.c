/* Speed of training on random tokens: micro-steps, their phases, the matrix products of a micro-step alone, updates.
 *
 * Prints `key: value` lines. All that is compared is measured in turn, so that another program slows both. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "gemm.h"
#include "model.h"
#include "optimizer.h"

enum { MOST_STEPS = 10000, UPDATES = 5, ATTENTION_BLOCK = 64 };

struct Options {
    struct Shape shape;
    int threads, steps;
    const char *gemm, *backend;
};

static const char usage[] = "bench [--shape DIM HIDDEN HEADS SEQ LAYERS CLASSES] [--threads N]"
                            " [--gemm own|openblas|auto] [--steps N] [--backend cpu|sim]";

static int number(const char *text, int most) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < 1 || value > most)
        fail("%s is not a number from 1 to %d\nhint: %s", text, most, usage);
    return (int)value;
}

static struct Options options_of(int count, char **arguments) {
    struct Options options = {{128, 384, 4, 128, 2, 4096, false}, 2, 20, "auto", "cpu"};
    int *sizes[] = {&options.shape.dim, &options.shape.hidden, &options.shape.heads,
                    &options.shape.seq, &options.shape.layers, &options.shape.classes};
    int i = 1;
    while (i < count) {
        const char *name = arguments[i++];
        int wanted = strcmp(name, "--shape") == 0 ? 6 : 1;
        if (count - i < wanted)
            fail("%s needs %d more\nhint: %s", name, wanted, usage);
        if (wanted == 6)
            for (int size = 0; size < 6; size++)
                *sizes[size] = number(arguments[i + size], 1 << 16);
        else if (strcmp(name, "--threads") == 0)
            options.threads = number(arguments[i], 256);
        else if (strcmp(name, "--steps") == 0)
            options.steps = number(arguments[i], MOST_STEPS);
        else if (strcmp(name, "--gemm") == 0)
            options.gemm = arguments[i];
        else if (strcmp(name, "--backend") == 0)
            options.backend = arguments[i];
        else
            fail("%s is no option\nhint: %s", name, usage);
        i += wanted;
    }
    if (options.shape.dim % (2 * options.shape.heads) != 0)
        fail("each head needs the same even number of channels, but dim is %d for %d heads", options.shape.dim,
             options.shape.heads);
    return options;
}

static int by_size(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_size);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* The products of a micro-step with the model's own weights and gradients, on activations that nobody else uses. */
struct Products {
    struct Pool *pool;
    struct Parameters *parameters;
    real *in, *out, *logits; /* in, out: [longest, seq] */
    real *scores;            /* [heads, block, seq] */
};

static void attention_products(void *context, int head) {
    const struct Products *products = context;
    const struct Shape *shape = &products->parameters->shape;
    int seq = shape->seq, size = shape->dim / shape->heads;
    size_t at = (size_t)head * (size_t)size * (size_t)seq;
    const real *in = products->in + at;
    real *out = products->out + at, *scores = products->scores + (size_t)head * ATTENTION_BLOCK * (size_t)seq;
    for (int begin = 0; begin < seq; begin += ATTENTION_BLOCK) {
        int rows = seq - begin < ATTENTION_BLOCK ? seq - begin : ATTENTION_BLOCK, keys = begin + rows;
        for (int i = 0; i < 3; i++) /* scores forward and again on the way back, gradient of the probabilities */
            gemm(NULL, true, false, rows, keys, size, 1, in + begin, seq, in, seq, 0, scores, keys);
        for (int i = 0; i < 2; i++) /* a, dq */
            gemm(NULL, false, true, size, rows, keys, 1, in, seq, scores, keys, 0, out + begin, seq);
        for (int i = 0; i < 2; i++) /* dk, dv */
            gemm(NULL, false, false, size, keys, rows, 1, in + begin, seq, scores, keys, 1, out, seq);
    }
}

static void products_run(struct Products *products) {
    const struct Shape *shape = &products->parameters->shape;
    int seq = shape->seq, dim = shape->dim, classes = shape->classes;
    const struct Tensor *table = embedding(products->parameters);
    for (int i = 0; i < products->parameters->count; i++) {
        const struct Tensor *tensor = &products->parameters->tensors[i];
        int rows = tensor->rows, columns = tensor->columns;
        if (tensor->group != MATRIX)
            continue;
        gemm(products->pool, false, false, rows, seq, columns, 1, tensor->weight, columns, products->in, seq, 0,
             products->out, seq);
        gemm(products->pool, true, false, columns, seq, rows, 1, tensor->weight, columns, products->in, seq, 0,
             products->out, seq);
        gemm(products->pool, false, true, rows, columns, seq, 1, products->in, seq, products->out, seq, 1,
             tensor->gradient, columns);
    }
    for (int layer = 0; layer < shape->layers; layer++)
        pool_run(products->pool, shape->heads, attention_products, products);
    gemm(products->pool, true, true, seq, classes, dim, 1, products->in, seq, table->weight, dim, 0, products->logits,
         classes);
    gemm(products->pool, true, true, dim, seq, classes, 1, table->weight, dim, products->logits, classes, 0,
         products->out, seq);
    gemm(products->pool, true, true, classes, dim, seq, 1, products->logits, classes, products->in, seq, 1,
         table->gradient, dim);
}

static struct Products products_new(struct Pool *pool, struct Parameters *parameters) {
    const struct Shape *shape = &parameters->shape;
    size_t seq = (size_t)shape->seq, longest = (size_t)(shape->hidden > shape->dim ? shape->hidden : shape->dim);
    struct Products products = {pool, parameters, need(longest * seq, sizeof(real)), need(longest * seq, sizeof(real)),
                                need(seq * (size_t)shape->classes, sizeof(real)),
                                need((size_t)shape->heads * ATTENTION_BLOCK * seq, sizeof(real))};
    for (size_t i = 0; i < longest * seq; i++)
        products.in[i] = (real)(1e-3 * (double)(i % 7));
    return products;
}

static void products_free(struct Products *products) {
    free(products->in);
    free(products->out);
    free(products->logits);
    free(products->scores);
}

struct Copy {
    char *from, *to;
    size_t bytes;
};
enum { COPY_PIECE = 1 << 20 };

static void copy_piece(void *context, int part) {
    const struct Copy *copy = context;
    size_t begin = (size_t)part * COPY_PIECE, left = copy->bytes - begin;
    memcpy(copy->to + begin, copy->from + begin, left < COPY_PIECE ? left : COPY_PIECE);
}

/* Bytes read and written per second by an optimizer's update and by a copy of as many numbers. */
static void measure_update(bool lion, struct Parameters *parameters, struct Pool *pool) {
    struct Settings settings = {.lion = lion, .learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8,
                                .weight_decay = 0.1, .grad_clip = 1, .embed_lr_scale = 1, .matrix_lr_scale = 1,
                                .total_steps = 1000, .loss_scale = 1};
    const char *name = lion ? "lion" : "adamw";
    size_t count = 0;
    for (int i = 0; i < parameters->count; i++)
        count += (size_t)parameters->tensors[i].rows * (size_t)parameters->tensors[i].columns;
    struct Copy copy = {need(count, 2 * sizeof(real)), need(count, 2 * sizeof(real)), 2 * count * sizeof(real)};
    double updates[UPDATES], copies[UPDATES];
    for (int i = 0; i < UPDATES; i++) {
        double start = seconds();
        optimizer_update(&settings, parameters, pool, i, i, 1);
        double middle = seconds();
        pool_run(pool, (int)((copy.bytes + COPY_PIECE - 1) / COPY_PIECE), copy_piece, &copy);
        updates[i] = middle - start;
        copies[i] = seconds() - middle;
    }
    double seconds_of_update = median(updates, UPDATES);
    /* The norm reads the gradient; then weight, gradient and one moment, or two, are read and written. */
    double bytes = (lion ? 7 : 9) * (double)(count * sizeof(real));
    printf("ms_update_%s: %.3f\n", name, 1e3 * seconds_of_update);
    printf("update_%s_gb_per_second: %.2f\n", name, bytes / seconds_of_update * 1e-9);
    printf("copy_beside_%s_gb_per_second: %.2f\n", name, 2 * (double)copy.bytes / median(copies, UPDATES) * 1e-9);
    free(copy.from);
    free(copy.to);
}

enum { OWN, OPENBLAS, PRODUCT_KINDS };
static const char *const kinds[PRODUCT_KINDS] = {"own", "openblas"};

static void measure_steps(const struct Options *options, struct Model *model, struct Timers *timers,
                          struct Products *products) {
    int seq = options->shape.seq, steps = options->steps;
    int32_t *inputs = need((size_t)seq + 1, sizeof *inputs);
    double *times = need((size_t)steps, sizeof *times), *alone[PRODUCT_KINDS];
    struct Problem problem;
    bool there[PRODUCT_KINDS];
    for (int kind = 0; kind < PRODUCT_KINDS; kind++) {
        alone[kind] = need((size_t)steps, sizeof *alone[kind]);
        there[kind] = gemm_use(kinds[kind], &problem);
    }
    struct Random random;
    random_seed(&random, 1);
    for (int step = -1; step < steps; step++) { /* the first one touches all memory */
        for (int t = 0; t <= seq; t++)
            inputs[t] = (int32_t)random_below(&random, (uint64_t)options->shape.classes);
        if (step == 0)
            memset(timers, 0, sizeof *timers);
        if (!gemm_use(options->gemm, &problem))
            fail("%s", problem.text);
        double start = seconds();
        model_train(model, inputs, inputs + 1);
        model_wait(model);
        if (step >= 0)
            times[step] = seconds() - start;
        for (int kind = 0; kind < PRODUCT_KINDS; kind++)
            if (there[kind] && gemm_use(kinds[kind], &problem)) {
                start = seconds();
                products_run(products);
                if (step >= 0)
                    alone[kind][step] = seconds() - start;
            }
    }
    static const char *const names[PHASE_COUNT] = {
#define PHASE_TEXT(name, text) text,
        PHASES(PHASE_TEXT)
#undef PHASE_TEXT
    };
    double best = INFINITY, typical = median(times, steps);
    printf("micro_steps_per_second: %.3f\n", 1 / typical);
    printf("ms_micro_step: %.3f\n", 1e3 * typical);
    for (int phase = 0; phase < PHASE_COUNT; phase++)
        if (timers->seconds[phase] > 0)
            printf("ms_%s: %.3f\n", names[phase], 1e3 * timers->seconds[phase] / steps);
    for (int kind = 0; kind < PRODUCT_KINDS; kind++) {
        double products_alone = median(alone[kind], steps);
        if (there[kind])
            printf("ms_products_%s: %.3f\n", kinds[kind], 1e3 * products_alone);
        if (there[kind] && products_alone < best)
            best = products_alone;
        free(alone[kind]);
    }
    printf("step_to_products: %.3f\n", typical / best);
    free(times);
    free(inputs);
}

int main(int count, char **arguments) {
    struct Options options = options_of(count, arguments);
    const struct Shape *shape = &options.shape;
    struct Problem problem;
    if (!gemm_use(options.gemm, &problem))
        fail("%s", problem.text);
    struct Pool *pool = pool_new(options.threads);
    struct Parameters *parameters = parameters_new(shape, LION);
    struct Timers timers = {{0}};
    struct Kernels cpu = cpu_kernels(shape, pool), kernels = cpu;
    if (strcmp(options.backend, "sim") == 0) {
        if (!device_kernels(&kernels, sim_executor(pool), cpu, shape, pool, true, &timers, &problem))
            fail("%s", problem.text);
    } else if (strcmp(options.backend, "cpu") != 0) {
        fail("%s is no backend here\nhint: %s", options.backend, usage);
    }
    printf("backend: %s\nthreads: %d\ngemm: %s\n", kernels.name, options.threads, gemm_name());
    printf("shape: %d %d %d %d %d %d\n", shape->dim, shape->hidden, shape->heads, shape->seq, shape->layers,
           shape->classes);
    parameters_initialise(parameters, 1, NULL);
    struct Model *model = model_new(parameters, &kernels, pool, 30, 0, 1024, &timers);
    model_stage(model);
    struct Products products = products_new(pool, parameters);
    measure_steps(&options, model, &timers, &products);
    products_free(&products);
    model_free(model);
    kernels.close(kernels.self);
    measure_update(true, parameters, pool);
    parameters_free(parameters);
    parameters = parameters_new(shape, ADAMW);
    measure_update(false, parameters, pool);
    parameters_free(parameters);
    pool_free(pool);
    return 0;
}
