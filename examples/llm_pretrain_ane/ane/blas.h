/* A BLAS of this machine, called for one thread at a time; gemm.c alone uses it. */
#ifndef BLAS_H
#define BLAS_H

#include "base.h"

/* As gemm of gemm.h without a pool. */
typedef void Product(bool transpose_a, bool transpose_b, int m, int n, int k, real alpha, const real *a, int lda,
                     const real *b, int ldb, real beta, real *c, int ldc);

/* The product of `openblas` or `accelerate`; NULL with a sentence where it is not to be had. */
Product *blas_open(const char *name, struct Problem *problem);

#endif
