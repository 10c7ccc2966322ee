/* The kernels by matrix products on the CPU: the reference that the other backends are compared with.
 *
 * Attention goes through blocks of queries and only over the keys that one of them may see; heads are in parallel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "elementary.h"
#include "gemm.h"
#include "kernels.h"

/* Queries of a block; partial sums of one vector; numbers of a piece of a loop. */
enum { BLOCK = 64, LANES = 16, PIECE = 8192 };

struct Cpu {
    struct Shape shape;
    struct Pool *pool;
    real alpha;
    struct LayerWeights *weights; /* [layers] */
    real *cosines, *sines;        /* [seq, head / 2] */
    real *scores;                 /* [heads, 2, BLOCK, seq] */
};

void rope_tables(const struct Shape *shape, real *cosines, real *sines) {
    int pairs = shape->dim / shape->heads / 2;
    for (int t = 0; t < shape->seq; t++)
        for (int i = 0; i < pairs; i++) {
            double angle = t * pow(10000, -(double)i / pairs);
            cosines[(size_t)t * (size_t)pairs + (size_t)i] = (real)cos(angle);
            sines[(size_t)t * (size_t)pairs + (size_t)i] = (real)sin(angle);
        }
}

void rope_turn(const struct Shape *shape, const real *cosines, const real *sines, bool inverse, real *x) {
    size_t seq = (size_t)shape->seq, pairs = (size_t)(shape->dim / shape->heads / 2);
    for (size_t pair = 0; pair < (size_t)shape->dim / 2; pair++) {
        real *even = x + 2 * pair * seq, *odd = even + seq;
        const real *cosine = cosines + pair % pairs, *sine = sines + pair % pairs;
        for (size_t t = 0; t < seq; t++) {
            real c = cosine[t * pairs], s = inverse ? -sine[t * pairs] : sine[t * pairs], a = even[t], b = odd[t];
            even[t] = a * c - b * s;
            odd[t] = a * s + b * c;
        }
    }
}

static void stage(void *self, int layer, const struct LayerWeights *weights) {
    ((struct Cpu *)self)->weights[layer] = *weights;
}

/* Softmax of the first `count` numbers of a row; the others become 0. */
static void softmax(real *row, int count, int length) {
    real maxima[LANES], sums[LANES] = {0}, most = row[0], sum = 0;
    int whole = count - count % LANES;
    for (int lane = 0; lane < LANES; lane++)
        maxima[lane] = most;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            maxima[lane] = row[i + lane] > maxima[lane] ? row[i + lane] : maxima[lane];
    for (int i = whole; i < count; i++)
        most = row[i] > most ? row[i] : most;
    for (int lane = 0; lane < LANES; lane++)
        most = maxima[lane] > most ? maxima[lane] : most;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += row[i + lane] = real_exp(row[i + lane] - most);
    for (int i = whole; i < count; i++)
        sum += row[i] = real_exp(row[i] - most);
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    real inverse = 1 / sum;
    for (int i = 0; i < count; i++)
        row[i] *= inverse;
    memset(row + count, 0, (size_t)(length - count) * sizeof *row);
}

struct Attention {
    struct Cpu *cpu;
    real *q, *k, *a;
    const real *v;
};

/* Probabilities of the queries `begin` .. begin + rows - 1 of a head, [rows, begin + rows]. */
static void probabilities(const struct Cpu *cpu, const real *q, const real *k, int begin, int rows, real *p) {
    int seq = cpu->shape.seq, size = cpu->shape.dim / cpu->shape.heads, keys = begin + rows;
    gemm(NULL, true, false, rows, keys, size, (real)(1 / sqrt(size)), q + begin, seq, k, seq, 0, p, keys);
    for (int row = 0; row < rows; row++)
        softmax(p + (size_t)row * (size_t)keys, begin + row + 1, keys);
}

static int rows_from(const struct Cpu *cpu, int begin) {
    return cpu->shape.seq - begin < BLOCK ? cpu->shape.seq - begin : BLOCK;
}

/* Where the scores of a head are, and its first element in [dim, seq]. */
static real *head_scores(const struct Cpu *cpu, int head) {
    return cpu->scores + (size_t)head * 2 * BLOCK * (size_t)cpu->shape.seq;
}

static size_t head_begin(const struct Cpu *cpu, int head) {
    return (size_t)head * (size_t)(cpu->shape.dim / cpu->shape.heads) * (size_t)cpu->shape.seq;
}

static void attention_head(void *context, int head) {
    const struct Attention *job = context;
    const struct Cpu *cpu = job->cpu;
    int seq = cpu->shape.seq, size = cpu->shape.dim / cpu->shape.heads;
    size_t at = head_begin(cpu, head);
    real *q = job->q + at, *k = job->k + at, *a = job->a + at, *p = head_scores(cpu, head);
    if (cpu->shape.rope) {
        struct Shape one = cpu->shape;
        one.dim = size;
        one.heads = 1;
        rope_turn(&one, cpu->cosines, cpu->sines, false, q);
        rope_turn(&one, cpu->cosines, cpu->sines, false, k);
    }
    for (int begin = 0; begin < seq; begin += BLOCK) {
        int rows = rows_from(cpu, begin), keys = begin + rows;
        probabilities(cpu, q, k, begin, rows, p);
        gemm(NULL, false, true, size, rows, keys, 1, job->v + at, seq, p, keys, 0, a + begin, seq);
    }
}

static void attention(void *self, int layer, const real *xn, real *o, real *a, real *q, real *k, real *v) {
    struct Cpu *cpu = self;
    const struct LayerWeights *weights = &cpu->weights[layer];
    int dim = cpu->shape.dim, seq = cpu->shape.seq;
    gemm(cpu->pool, false, false, dim, seq, dim, 1, weights->wq, dim, xn, seq, 0, q, seq);
    gemm(cpu->pool, false, false, dim, seq, dim, 1, weights->wk, dim, xn, seq, 0, k, seq);
    gemm(cpu->pool, false, false, dim, seq, dim, 1, weights->wv, dim, xn, seq, 0, v, seq);
    struct Attention job = {cpu, q, k, a, v};
    pool_run(cpu->pool, cpu->shape.heads, attention_head, &job);
    gemm(cpu->pool, false, false, dim, seq, dim, 1, weights->wo, dim, a, seq, 0, o, seq);
}

struct Gate {
    size_t gated, copied; /* numbers of h1, h3 and u, and of x2 and x */
    const real *h1, *h3, *x2;
    real *u, *x;
};

static void gate_piece(void *context, int part) {
    const struct Gate *gate = context;
    size_t begin = (size_t)part * PIECE, end = begin + PIECE;
    size_t gated = end < gate->gated ? end : gate->gated, copied = end < gate->copied ? end : gate->copied;
    for (size_t i = begin; i < gated; i++)
        gate->u[i] = gate->h1[i] * real_sigmoid(gate->h1[i]) * gate->h3[i];
    if (begin < copied)
        memcpy(gate->x + begin, gate->x2 + begin, (copied - begin) * sizeof *gate->x);
}

static void ffn(void *self, int layer, const real *x2n, const real *x2, real *x, real *h1, real *h3, real *u) {
    struct Cpu *cpu = self;
    const struct LayerWeights *weights = &cpu->weights[layer];
    int dim = cpu->shape.dim, hidden = cpu->shape.hidden, seq = cpu->shape.seq;
    gemm(cpu->pool, false, false, hidden, seq, dim, 1, weights->w1, dim, x2n, seq, 0, h1, seq);
    gemm(cpu->pool, false, false, hidden, seq, dim, 1, weights->w3, dim, x2n, seq, 0, h3, seq);
    struct Gate gate = {(size_t)hidden * (size_t)seq, (size_t)dim * (size_t)seq, h1, h3, x2, u, x};
    size_t longer = gate.gated > gate.copied ? gate.gated : gate.copied;
    pool_run(cpu->pool, (int)((longer + PIECE - 1) / PIECE), gate_piece, &gate);
    gemm(cpu->pool, false, false, dim, seq, hidden, cpu->alpha, weights->w2, hidden, u, seq, 1, x, seq);
}

static void ffn_back_w2(void *self, int layer, const real *df, real *du) {
    struct Cpu *cpu = self;
    int dim = cpu->shape.dim, hidden = cpu->shape.hidden, seq = cpu->shape.seq;
    gemm(cpu->pool, true, false, hidden, seq, dim, 1, cpu->weights[layer].w2, hidden, df, seq, 0, du, seq);
}

static void ffn_back_w13(void *self, int layer, const real *dh1, const real *dh3, real *dx2n) {
    struct Cpu *cpu = self;
    const struct LayerWeights *weights = &cpu->weights[layer];
    int dim = cpu->shape.dim, hidden = cpu->shape.hidden, seq = cpu->shape.seq;
    gemm(cpu->pool, true, false, dim, seq, hidden, 1, weights->w1, dim, dh1, seq, 0, dx2n, seq);
    gemm(cpu->pool, true, false, dim, seq, hidden, 1, weights->w3, dim, dh3, seq, 1, dx2n, seq);
}

static void wo_back(void *self, int layer, const real *dout, real *da) {
    struct Cpu *cpu = self;
    int dim = cpu->shape.dim, seq = cpu->shape.seq;
    gemm(cpu->pool, true, false, dim, seq, dim, 1, cpu->weights[layer].wo, dim, dout, seq, 0, da, seq);
}

struct AttentionBack {
    struct Cpu *cpu;
    const real *q, *k, *v, *da;
    real *dq, *dk, *dv;
};

/* dp becomes the gradient of the products of queries and keys: p (dp - sum of p dp in its row) / sqrt(size). */
static void softmax_back(const real *p, real *dp, int rows, int keys, real scale) {
    for (int row = 0; row < rows; row++, p += keys, dp += keys) {
        real lanes[LANES] = {0}, sum = 0;
        int whole = keys - keys % LANES;
        for (int i = 0; i < whole; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += p[i + lane] * dp[i + lane];
        for (int i = whole; i < keys; i++)
            sum += p[i] * dp[i];
        for (int lane = 0; lane < LANES; lane++)
            sum += lanes[lane];
        for (int i = 0; i < keys; i++)
            dp[i] = p[i] * (dp[i] - sum) * scale;
    }
}

static void attention_back_head(void *context, int head) {
    const struct AttentionBack *job = context;
    const struct Cpu *cpu = job->cpu;
    int seq = cpu->shape.seq, size = cpu->shape.dim / cpu->shape.heads;
    size_t at = head_begin(cpu, head);
    const real *q = job->q + at, *k = job->k + at, *v = job->v + at, *da = job->da + at;
    real *dq = job->dq + at, *dk = job->dk + at, *dv = job->dv + at;
    real *p = head_scores(cpu, head), *dp = p + (size_t)BLOCK * (size_t)seq;
    /* The last queries first: they see all keys. */
    for (int begin = (seq - 1) / BLOCK * BLOCK; begin >= 0; begin -= BLOCK) {
        int rows = rows_from(cpu, begin), keys = begin + rows;
        real beta = keys == seq ? 0 : 1;
        probabilities(cpu, q, k, begin, rows, p);
        gemm(NULL, true, false, rows, keys, size, 1, da + begin, seq, v, seq, 0, dp, keys);
        gemm(NULL, false, false, size, keys, rows, 1, da + begin, seq, p, keys, beta, dv, seq);
        softmax_back(p, dp, rows, keys, (real)(1 / sqrt(size)));
        gemm(NULL, false, true, size, rows, keys, 1, k, seq, dp, keys, 0, dq + begin, seq);
        gemm(NULL, false, false, size, keys, rows, 1, q + begin, seq, dp, keys, beta, dk, seq);
    }
}

static void sdpa_back(void *self, const real *q, const real *k, const real *v, const real *da, real *dq, real *dk,
                      real *dv) {
    struct Cpu *cpu = self;
    struct AttentionBack job = {cpu, q, k, v, da, dq, dk, dv};
    pool_run(cpu->pool, cpu->shape.heads, attention_back_head, &job);
}

static void qkv_back(void *self, int layer, const real *dq, const real *dk, const real *dv, real *dxn) {
    struct Cpu *cpu = self;
    const struct LayerWeights *weights = &cpu->weights[layer];
    int dim = cpu->shape.dim, seq = cpu->shape.seq;
    gemm(cpu->pool, true, false, dim, seq, dim, 1, weights->wq, dim, dq, seq, 0, dxn, seq);
    gemm(cpu->pool, true, false, dim, seq, dim, 1, weights->wk, dim, dk, seq, 1, dxn, seq);
    gemm(cpu->pool, true, false, dim, seq, dim, 1, weights->wv, dim, dv, seq, 1, dxn, seq);
}

static void close_cpu(void *self) {
    struct Cpu *cpu = self;
    free(cpu->weights);
    free(cpu->cosines);
    free(cpu->sines);
    free(cpu->scores);
    free(cpu);
}

struct Kernels cpu_kernels(const struct Shape *shape, struct Pool *pool) {
    struct Cpu *cpu = need(1, sizeof *cpu);
    size_t seq = (size_t)shape->seq, pairs = seq * (size_t)(shape->dim / shape->heads / 2);
    cpu->shape = *shape;
    cpu->pool = pool;
    cpu->alpha = (real)(1 / sqrt(2.0 * shape->layers));
    cpu->weights = need((size_t)shape->layers, sizeof *cpu->weights);
    cpu->cosines = need(pairs, sizeof(real));
    cpu->sines = need(pairs, sizeof(real));
    cpu->scores = need((size_t)shape->heads * 2 * BLOCK * seq, sizeof(real));
    rope_tables(shape, cpu->cosines, cpu->sines);
    return (struct Kernels){"cpu", cpu, stage, attention, ffn, ffn_back_w2, ffn_back_w13, wo_back, sdpa_back, qkv_back,
                            close_cpu};
}
