/* The seam: the work that a Neural Engine can do, as a table of functions with three backends, cpu, sim and ane.
 *
 * All activations are [C, seq] row-major. Which weights a kernel uses is by `layer`, as staged last. */
#ifndef KERNELS_H
#define KERNELS_H

#include "base.h"
#include "pool.h"
#include "timers.h"

struct Shape {
    int dim, hidden, heads, seq, layers, classes; /* classes: rows of the embedding in use */
    bool rope;
};

/* [out, in] row-major: wq wk wv wo [D, D], w1 w3 [F, D], w2 [D, F]. */
struct LayerWeights {
    const real *wq, *wk, *wv, *wo, *w1, *w2, *w3;
};

struct Kernels {
    const char *name;
    void *self;
    /* The weights of a layer from now on; cpu keeps the pointers, others copy. */
    void (*stage)(void *self, int layer, const struct LayerWeights *weights);
    /* q = Wq xn, k = Wk xn, v = Wv xn; with rope q and k are rotated; a = softmax(causal q k / sqrt(hd)) v per head;
       o = Wo a. All [D, S]. */
    void (*attention)(void *self, int layer, const real *xn, real *o, real *a, real *q, real *k, real *v);
    /* h1 = W1 x2n, h3 = W3 x2n, u = silu(h1) h3 [F, S]; x = x2 + alpha W2 u [D, S]. */
    void (*ffn)(void *self, int layer, const real *x2n, const real *x2, real *x, real *h1, real *h3, real *u);
    /* du = W2' df: [D, S] to [F, S]. */
    void (*ffn_back_w2)(void *self, int layer, const real *df, real *du);
    /* dx2n = W1' dh1 + W3' dh3: [F, S] to [D, S]. */
    void (*ffn_back_w13)(void *self, int layer, const real *dh1, const real *dh3, real *dx2n);
    /* da = Wo' dout: [D, S]. */
    void (*wo_back)(void *self, int layer, const real *dout, real *da);
    /* Gradients of a by q, k (as rotated) and v; probabilities are computed again. */
    void (*sdpa_back)(void *self, const real *q, const real *k, const real *v, const real *da, real *dq, real *dk,
                      real *dv);
    /* dxn = Wq' dq + Wk' dk + Wv' dv: [D, S]. */
    void (*qkv_back)(void *self, int layer, const real *dq, const real *dk, const real *dv, real *dxn);
    void (*close)(void *self);
};

/* Reference, and the default off macOS. */
struct Kernels cpu_kernels(const struct Shape *shape, struct Pool *pool);

/* cos and sin of position * 10000^(-2 i / hd), each [seq, hd / 2]. */
void rope_tables(const struct Shape *shape, real *cosines, real *sines);
/* Turns pairs of channels (2i, 2i + 1) of each head of x [D, S] in place; `inverse` turns back. */
void rope_turn(const struct Shape *shape, const real *cosines, const real *sines, bool inverse, real *x);

#endif
