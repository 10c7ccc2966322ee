/* Kernels by compiled programs that work on surfaces of half-precision numbers: the sim and ane backends.
 *
 * device.c knows kernels, packing, staging, self-test and falling back; an Executor knows how to load and run a
 * program. */
#ifndef DEVICE_H
#define DEVICE_H

#include "base.h"
#include "kernels.h"
#include "pool.h"
#include "timers.h"

/* A file beside the text, which names it @model_path/<path>. */
struct Blob {
    const char *path; /* such as weights/mask.bin */
    const void *data;
    size_t bytes;
};

struct Source {
    const char *name; /* of the kernel, for messages */
    const char *text; /* MIL, UTF-8 */
    size_t length;
    const struct Blob *blobs;
    int blob_count;
};

/* All handles are the executor's own. Functions that return NULL or false have written the problem. */
struct Executor {
    const char *name;
    void *self;
    void *(*load)(void *self, const struct Source *source, struct Problem *problem);
    void (*unload)(void *self, void *program);
    /* Memory for at least `bytes`, zeroed. */
    void *(*surface)(void *self, size_t bytes, struct Problem *problem);
    void (*release)(void *self, void *surface);
    /* Where the bytes are until unlock; at most one lock of a surface at a time, none during run. */
    void *(*lock)(void *self, void *surface, bool write, struct Problem *problem);
    bool (*unlock)(void *self, void *surface, bool write, struct Problem *problem);
    /* A program with its one input and one output surface. */
    void *(*bind)(void *self, void *program, void *input, void *output, struct Problem *problem);
    void (*unbind)(void *self, void *binding);
    /* Runs it and returns when the output is there. */
    bool (*run)(void *self, void *binding, struct Problem *problem);
    void (*close)(void *self);
};

/* What an executor makes of a wish for a surface: whole pages of the device, and no small ones: some chips refuse
   them. */
#define MOST_SURFACE ((size_t)1 << 40)
static inline size_t surface_bytes(size_t wished) {
    static const size_t page = 16384, least = 65536;
    return wished < least ? least : (wished + page - 1) / page * page;
}

/* Executes MIL text on the CPU with every intermediate result rounded to half precision, and refuses what the hardware
   would refuse or get wrong. Subnormal halves are flushed to zero, as the hardware is reported to do. */
struct Executor sim_executor(struct Pool *pool);
/* Finite results so far that are beyond all halves, but for scores far below zero. */
uint64_t sim_overflows(const struct Executor *executor);

/* The Neural Engine by Apple's private framework; false with a sentence where it is not to be had. ane.c needs Apple's
   headers: the tests give it their own and a framework of their own. */
#if defined(__APPLE__) || defined(FRAMEWORK_PATH)
bool ane_executor(struct Executor *executor, struct Problem *problem);
/* The quality of service by ANE_QOS; false with a sentence for one that there is not. */
bool ane_qos(unsigned *qos, struct Problem *problem);
/* What the framework says of the chip, in one line; always leaves a text. */
void ane_banner(char *text, size_t bytes);
#else
static inline bool ane_executor(struct Executor *executor, struct Problem *why) {
    (void)executor;
    return problem(why, "the Neural Engine needs macOS on Apple Silicon");
}
static inline bool ane_qos(unsigned *qos, struct Problem *why) {
    (void)qos, (void)why;
    return true;
}
#endif

enum Dialect { DIALECT_M3, DIALECT_M1 }; /* M3 and later; M1 and M2 */

/* Takes the executor over, closing it on failure, and `cpu`, which stays the caller's on failure. Each kernel is
   compiled, in the newer dialect first, and compared with cpu_kernels on random input; one that fails, now or later,
   is done by `cpu` from then on, with a notice on standard error. `strict`: a failure now is returned as the problem
   instead. Pointers are kept. `timers` may be NULL. */
bool device_kernels(struct Kernels *kernels, struct Executor executor, struct Kernels cpu, const struct Shape *shape,
                    struct Pool *pool, bool strict, struct Timers *timers, struct Problem *problem);

/* What came of the start of each kernel, for `make selftest`: its name, where it runs, and the largest error against
   cpu in units of the largest result. */
struct KernelReport {
    const char *kernel;
    bool on_device;
    double error;      /* NAN where it did not run */
    char problem[512]; /* empty when on the device */
};
/* Writes up to `most` reports, returns how many kernels there are. */
int device_reports(const struct Kernels *kernels, struct KernelReport *reports, int most);

#endif
