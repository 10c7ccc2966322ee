/* Loops over activations, cut into strips of columns or pieces whose size does not depend on the number of threads. */
#include "elementwise.h"

#include <math.h>

#include "elementary.h"

/* STRIP columns: whole cache lines, and a strip's sums stay in the first cache. LANES: partial sums of one vector. */
enum { STRIP = 64, LANES = 16, PIECE = 8192 };
static const double NORM_EPSILON = 1e-5;

static int strips(int seq) {
    return (seq + STRIP - 1) / STRIP;
}

static int least(int a, int b) {
    return a < b ? a : b;
}

struct Embed {
    int dim, seq;
    const real *table;
    const int32_t *rows;
    real *x;
};

static void embed_strip(void *context, int part) {
    const struct Embed *job = context;
    int begin = part * STRIP, end = least(begin + STRIP, job->seq);
    for (int d = 0; d < job->dim; d++) {
        real *x = job->x + (size_t)d * (size_t)job->seq;
        for (int t = begin; t < end; t++)
            x[t] = job->table[(size_t)job->rows[t] * (size_t)job->dim + (size_t)d];
    }
}

void embed(struct Pool *pool, int dim, int seq, const real *table, const int32_t *rows, real *x) {
    struct Embed job = {dim, seq, table, rows, x};
    pool_run(pool, strips(seq), embed_strip, &job);
}

void embed_back(int part, int dim, int seq, const real *x, const int32_t *rows, real *table) {
    int first = (int)((int64_t)dim * part / SCATTERS), last = (int)((int64_t)dim * (part + 1) / SCATTERS);
    for (int begin = first; begin < last; begin += STRIP) /* so that a line of x is still there for the next token */
        for (int t = 0; t < seq; t++) {
            real *row = table + (size_t)rows[t] * (size_t)dim;
            for (int d = begin; d < least(begin + STRIP, last); d++)
                row[d] += x[(size_t)d * (size_t)seq + (size_t)t];
        }
}

static void norm_strip(void *context, int part) {
    const struct Norm *job = context;
    int begin = part * STRIP, width = least(STRIP, job->seq - begin);
    real squares[STRIP] = {0};
    const real *x = job->x;
    if (job->branch != NULL)
        x = job->sum;
    for (int d = 0; d < job->dim; d++) {
        size_t at = (size_t)d * (size_t)job->seq + (size_t)begin;
        if (job->branch != NULL)
            for (int t = 0; t < width; t++)
                job->sum[at + (size_t)t] = job->x[at + (size_t)t] + job->alpha * job->branch[at + (size_t)t];
        for (int t = 0; t < width; t++)
            squares[t] += x[at + (size_t)t] * x[at + (size_t)t];
    }
    for (int t = 0; t < width; t++)
        job->inverse[begin + t] = squares[t] = (real)(1 / sqrt((double)squares[t] / job->dim + NORM_EPSILON));
    for (int d = 0; d < job->dim; d++) {
        size_t at = (size_t)d * (size_t)job->seq + (size_t)begin;
        real gain = job->gain[d];
        for (int t = 0; t < width; t++)
            job->y[at + (size_t)t] = x[at + (size_t)t] * gain * squares[t];
    }
}

void norm(struct Pool *pool, const struct Norm *norm) {
    pool_run(pool, strips(norm->seq), norm_strip, (void *)norm);
}

/* sums[part, d] = sum over the strip's t of dy x inverse; dx as in the header. */
static void norm_back_strip(void *context, int part) {
    const struct NormBack *job = context;
    int begin = part * STRIP, width = least(STRIP, job->seq - begin);
    const real *inverse = job->inverse + begin;
    real dots[STRIP] = {0};
    for (int d = 0; d < job->dim; d++) {
        size_t at = (size_t)d * (size_t)job->seq + (size_t)begin;
        const real *x = job->x + at, *dy = job->dy + at;
        real gain = job->gain[d], lanes[LANES] = {0}, sum = 0;
        int whole = width - width % LANES;
        for (int t = 0; t < whole; t += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += dy[t + lane] * x[t + lane] * inverse[t + lane];
        for (int t = whole; t < width; t++)
            sum += dy[t] * x[t] * inverse[t];
        for (int lane = 0; lane < LANES; lane++)
            sum += lanes[lane];
        job->sums[(size_t)part * (size_t)job->dim + (size_t)d] = sum;
        for (int t = 0; t < width; t++)
            dots[t] += gain * dy[t] * x[t];
    }
    for (int t = 0; t < width; t++)
        dots[t] *= inverse[t] * inverse[t] / (real)job->dim;
    for (int d = 0; d < job->dim; d++) {
        size_t at = (size_t)d * (size_t)job->seq + (size_t)begin;
        const real *restrict x = job->x + at, *restrict dy = job->dy + at;
        real *restrict dx = job->dx + at;
        real gain = job->gain[d], limit = job->limit;
        for (int t = 0; t < width; t++) {
            real by_x = dx[t] + inverse[t] * (gain * dy[t] - x[t] * dots[t]);
            real size = x[t] < 0 ? -x[t] : x[t];
            dx[t] = size >= limit ? 0 : by_x;
        }
        if (job->scaled != NULL)
            for (int t = 0; t < width; t++)
                job->scaled[at + (size_t)t] = job->alpha * dx[t];
    }
}

size_t norm_sums(int dim, int seq) {
    return (size_t)dim * (size_t)strips(seq);
}

void norm_back(struct Pool *pool, const struct NormBack *back) {
    pool_run(pool, strips(back->seq), norm_back_strip, (void *)back);
    for (int strip = 0; strip < strips(back->seq); strip++)
        for (int d = 0; d < back->dim; d++)
            back->dgain[d] += back->sums[(size_t)strip * (size_t)back->dim + (size_t)d];
}

struct Silu {
    size_t count;
    const real *du;
    real *h1, *h3;
};

static void silu_piece(void *context, int part) {
    const struct Silu *job = context;
    size_t begin = (size_t)part * PIECE, left = job->count - begin, count = left < PIECE ? left : PIECE;
    const real *restrict du = job->du + begin;
    real *restrict h1 = job->h1 + begin, *restrict h3 = job->h3 + begin;
    for (size_t i = 0; i < count; i++) {
        real sigmoid = real_sigmoid(h1[i]), silu = h1[i] * sigmoid;
        real dh1 = du[i] * h3[i] * sigmoid * (1 + h1[i] * (1 - sigmoid));
        h3[i] = du[i] * silu;
        h1[i] = dh1;
    }
}

static int pieces(size_t count) {
    return (int)((count + PIECE - 1) / PIECE);
}

void silu_back(struct Pool *pool, size_t count, const real *du, real *h1, real *h3) {
    struct Silu job = {count, du, h1, h3};
    pool_run(pool, pieces(count), silu_piece, &job);
}

struct Clamp {
    size_t count;
    real most, *x;
};

static void clamp_piece(void *context, int part) {
    const struct Clamp *job = context;
    size_t begin = (size_t)part * PIECE, end = begin + PIECE < job->count ? begin + PIECE : job->count;
    real most = job->most, *x = job->x;
    for (size_t i = begin; i < end; i++)
        x[i] = x[i] > most ? most : x[i] < -most ? -most : x[i];
}

void clamp(struct Pool *pool, size_t count, real most, real *x) {
    struct Clamp job = {count, most, x};
    pool_run(pool, pieces(count), clamp_piece, &job);
}
