/* The parts of a step that are no matrix products: embedding, norms, residuals, SiLU's gradient. Activations are [C, S]
   row-major. Sums are in a fixed order for any number of threads. */
#ifndef ELEMENTWISE_H
#define ELEMENTWISE_H

#include "base.h"
#include "pool.h"

/* x[:, t] = table[rows[t], :]. */
void embed(struct Pool *pool, int dim, int seq, const real *table, const int32_t *rows, real *x);
/* Part `part` of SCATTERS of table[rows[t], :] += x[:, t], in the order of t; for jobs behind. */
enum { SCATTERS = 2 };
void embed_back(int part, int dim, int seq, const real *x, const int32_t *rows, real *table);

/* RMSNorm of sum = x + alpha branch (Zhang and Sennrich, 2019): y = sum gain inverse, where
   inverse[t] = (mean of sum^2 + eps)^(-1/2). */
struct Norm {
    int dim, seq;
    const real *x, *branch; /* branch NULL: x alone, and sum is not written */
    real alpha;
    const real *gain;       /* [dim] */
    real *sum, *y;          /* [dim, seq] */
    real *inverse;          /* [seq] */
};
void norm(struct Pool *pool, const struct Norm *norm);

/* The way back through y = norm(x): dx += the gradient by x; dx = 0 where |x| >= limit; scaled = alpha dx. */
struct NormBack {
    int dim, seq;
    const real *x, *inverse, *gain, *dy;
    real limit, alpha;
    real *dx;     /* [dim, seq] */
    real *scaled; /* NULL: not wanted */
    real *dgain;  /* [dim]: its gradient is added */
    real *sums;   /* scratch of norm_sums(dim, seq) numbers */
};
void norm_back(struct Pool *pool, const struct NormBack *back);
size_t norm_sums(int dim, int seq);

/* From u = silu(h1) h3 and du: h1 and h3 become their gradients. */
void silu_back(struct Pool *pool, size_t count, const real *du, real *h1, real *h3);

/* x = least(most, greatest(-most, x)). */
void clamp(struct Pool *pool, size_t count, real most, real *x);

#endif
