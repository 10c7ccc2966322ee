/* An executor that passes all calls on to another one but for those that a test wants to fail; counts what is live. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

enum { MOST_FAULTS = 8, WORD = 32 };

struct Fault {
    char kind[WORD], kernel[WORD]; /* kernel "": any */
    int first, count, seen;
};

struct Wrapped {
    void *inner, *output;
    char kernel[WORD];
};

static struct Executor inner;
static struct Fault faults[MOST_FAULTS];
static int fault_count, live, closed;

/* Calls number first .. first + count - 1 of a kind fail; `kernel` may be "" for all. Kinds: load, surface, lock,
   unlock, bind, run, and after a run zeros, row, shift, nan: what is in the output. */
void failing_fault(const char *kind, const char *kernel, int first, int count) {
    struct Fault *fault = &faults[fault_count++];
    snprintf(fault->kind, WORD, "%s", kind);
    snprintf(fault->kernel, WORD, "%s", kernel);
    fault->first = first;
    fault->count = count;
    fault->seen = 0;
}

/* Programs, surfaces, bindings and locks; a thousand for each executor that was closed. */
int failing_live(void) {
    return live + 1000 * closed;
}

static bool hit(const char *kind, const char *kernel) {
    bool found = false;
    for (int i = 0; i < fault_count; i++) {
        struct Fault *fault = &faults[i];
        if (strcmp(fault->kind, kind) != 0 || (fault->kernel[0] != 0 && strcmp(fault->kernel, kernel) != 0))
            continue;
        fault->seen++;
        found = found || (fault->seen >= fault->first && fault->seen < fault->first + fault->count);
    }
    return found;
}

static void *load(void *self, const struct Source *source, struct Problem *why) {
    if (hit("load", source->name))
        return problem(why, "no load of %s", strstr(source->text, "program(1.3)") ? "1.3" : "1.0"), NULL;
    void *program = inner.load(self, source, why);
    if (program == NULL)
        return NULL;
    struct Wrapped *wrapped = need(1, sizeof *wrapped);
    wrapped->inner = program;
    snprintf(wrapped->kernel, WORD, "%s", source->name);
    live++;
    return wrapped;
}

static void unload(void *self, void *program) {
    inner.unload(self, ((struct Wrapped *)program)->inner);
    free(program);
    live--;
}

static void *surface(void *self, size_t bytes, struct Problem *why) {
    if (hit("surface", ""))
        return problem(why, "no surface"), NULL;
    void *made = inner.surface(self, bytes, why);
    live += made != NULL;
    return made;
}

static void release(void *self, void *released) {
    inner.release(self, released);
    live--;
}

static void *lock(void *self, void *locked, bool write, struct Problem *why) {
    if (hit("lock", ""))
        return problem(why, "no lock"), NULL;
    void *at = inner.lock(self, locked, write, why);
    live += at != NULL;
    return at;
}

static bool unlock(void *self, void *locked, bool write, struct Problem *why) {
    bool fine = inner.unlock(self, locked, write, why);
    live -= fine;
    return hit("unlock", "") ? problem(why, "no unlock") : fine;
}

static void *bind(void *self, void *program, void *input, void *output, struct Problem *why) {
    struct Wrapped *of = program, *wrapped = need(1, sizeof *wrapped);
    *wrapped = *of;
    wrapped->output = output;
    wrapped->inner = hit("bind", of->kernel) ? NULL : inner.bind(self, of->inner, input, output, why);
    if (wrapped->inner == NULL) {
        free(wrapped);
        return problem(why, "no binding"), NULL;
    }
    live++;
    return wrapped;
}

static void unbind(void *self, void *binding) {
    inner.unbind(self, ((struct Wrapped *)binding)->inner);
    free(binding);
    live--;
}

/* Of the output 128 columns wide, as at the size of the tests. */
static bool spoil(void *self, const struct Wrapped *wrapped, struct Problem *why) {
    enum { COLUMNS = 128, BYTES = 65536 / 2 };
    bool zeros = hit("zeros", wrapped->kernel), row = hit("row", wrapped->kernel);
    bool shift = hit("shift", wrapped->kernel), nan = hit("nan", wrapped->kernel);
    if (!zeros && !row && !shift && !nan)
        return true;
    uint16_t *halves = inner.lock(self, wrapped->output, true, why);
    if (zeros)
        memset(halves, 0, BYTES);
    if (row)
        memset(halves + 5 * COLUMNS, 0, COLUMNS * sizeof *halves);
    if (shift)
        memmove(halves + 1, halves, BYTES - sizeof *halves);
    if (nan)
        halves[7] = 0x7E00;
    return inner.unlock(self, wrapped->output, true, why);
}

static bool run(void *self, void *binding, struct Problem *why) {
    const struct Wrapped *wrapped = binding;
    if (hit("run", wrapped->kernel))
        return problem(why, "no run");
    return inner.run(self, wrapped->inner, why) && spoil(self, wrapped, why);
}

static void close_inner(void *self) {
    inner.close(self);
    closed++;
}

/* One at a time; forgets faults and counts of the one before. */
struct Executor failing_executor(struct Executor executor) {
    inner = executor;
    fault_count = live = closed = 0;
    return (struct Executor){"failing", executor.self, load, unload, surface, release, lock, unlock, bind, unbind, run,
                             close_inner};
}
