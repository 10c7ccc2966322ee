/* OpenBLAS, looked for at run time, so that one build works with and without it; Accelerate, which every Mac has. */
#include "blas.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* The C interface to the BLAS, as both have it. */
enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };
typedef void Cblas(int order, int transpose_a, int transpose_b, int m, int n, int k, real alpha, const real *a, int lda,
                   const real *b, int ldb, real beta, real *c, int ldc);
#ifdef ANE_DOUBLE
#define CBLAS_GEMM cblas_dgemm
#else
#define CBLAS_GEMM cblas_sgemm
#endif
#define NAME_OF(symbol) #symbol
#define NAME(symbol) NAME_OF(symbol)

static Cblas *cblas;

static void product(bool transpose_a, bool transpose_b, int m, int n, int k, real alpha, const real *a, int lda,
                    const real *b, int ldb, real beta, real *c, int ldc) {
    int as_a = transpose_a ? TRANSPOSED : AS_IT_IS, as_b = transpose_b ? TRANSPOSED : AS_IT_IS;
    cblas(ROW_MAJOR, as_a, as_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static Product *openblas(struct Problem *why) {
    static const char *const files[] = {"libopenblas.so.0", "libopenblas.so", "libopenblas.dylib"};
    void *handle = NULL;
    for (size_t i = 0; handle == NULL && i < sizeof files / sizeof *files; i++)
        handle = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        problem(why, "no OpenBLAS is installed (no %s); the product `own` needs none", files[0]);
        return NULL;
    }
    void (*set_threads)(int);
    *(void **)&set_threads = dlsym(handle, "openblas_set_num_threads");
    *(void **)&cblas = dlsym(handle, NAME(CBLAS_GEMM));
    if (set_threads == NULL || cblas == NULL) {
        problem(why, "the OpenBLAS of this machine lacks %s or openblas_set_num_threads; the product `own` needs none",
                NAME(CBLAS_GEMM));
        return NULL;
    }
    set_threads(1); /* the threads are the pool's */
    return product;
}

#ifdef __APPLE__
void CBLAS_GEMM(int order, int transpose_a, int transpose_b, int m, int n, int k, real alpha, const real *a, int lda,
                const real *b, int ldb, real beta, real *c, int ldc);

static Product *accelerate(struct Problem *why) {
    (void)why;
    setenv("VECLIB_MAXIMUM_THREADS", "1", 0); /* the threads are the pool's */
    cblas = CBLAS_GEMM;
    return product;
}
#else
static Product *accelerate(struct Problem *why) {
    problem(why, "Accelerate is part of macOS; the product `own` runs everywhere");
    return NULL;
}
#endif

Product *blas_open(const char *name, struct Problem *why) {
    return strcmp(name, "accelerate") == 0 ? accelerate(why) : openblas(why);
}
