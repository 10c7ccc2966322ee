/* Matrix products: own loops, or a BLAS where there is one. */
#ifndef GEMM_H
#define GEMM_H

#include "base.h"
#include "pool.h"

/* C = alpha op(A) op(B) + beta C; op(A) is [m, k], op(B) [k, n], C [m, n], row-major; op transposes where the flag says
   so; lda, ldb, ldc are the lengths of the rows as they are in memory. beta = 0 does not read C. pool NULL: this thread
   alone. */
void gemm(struct Pool *pool, bool transpose_a, bool transpose_b, int m, int n, int k, real alpha, const real *a,
          int lda, const real *b, int ldb, real beta, real *c, int ldc);

/* `own`, `openblas` (found at run time), `accelerate` (macOS), or `auto`: a BLAS where one is found and is the faster
   choice, else own. Call it once, before any product. */
bool gemm_use(const char *name, struct Problem *problem);
/* What is used: own, openblas or accelerate. */
const char *gemm_name(void);

#endif
