/* All logits are there at once, since their gradients are needed behind the step and each further product would pack
 * the embedding again; one token's are contiguous, so that its softmax stays in the cache. */
#include "classifier.h"

#include <math.h>
#include <stdlib.h>

#include "elementary.h"
#include "gemm.h"

/* Partial sums of one vector; numbers of a line of the cache. */
enum { LANES = 16, LINE = 64 / sizeof(real) };

struct Classifier *classifier_new(const struct Shape *shape, struct Pool *pool, double softcap) {
    struct Classifier *classifier = need(1, sizeof *classifier);
    classifier->shape = *shape;
    classifier->pool = pool;
    classifier->softcap = (real)softcap;
    classifier->stride = ((shape->classes + LINE - 1) / LINE | 1) * LINE;
    classifier->logits = need((size_t)shape->seq * (size_t)classifier->stride, sizeof(real));
    classifier->losses = need((size_t)shape->seq, sizeof(double));
    return classifier;
}

void classifier_free(struct Classifier *classifier) {
    if (classifier == NULL)
        return;
    free(classifier->logits);
    free(classifier->losses);
    free(classifier);
}

/* Of a row, without the NaN that it may have. */
static void extremes(const real *z, int count, real *least, real *most) {
    real minima[LANES], maxima[LANES];
    for (int lane = 0; lane < LANES; lane++)
        minima[lane] = maxima[lane] = z[0];
    int whole = count - count % LANES;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            minima[lane] = z[i + lane] < minima[lane] ? z[i + lane] : minima[lane];
            maxima[lane] = z[i + lane] > maxima[lane] ? z[i + lane] : maxima[lane];
        }
    for (int i = whole; i < count; i++) {
        minima[0] = z[i] < minima[0] ? z[i] : minima[0];
        maxima[0] = z[i] > maxima[0] ? z[i] : maxima[0];
    }
    for (int lane = 1; lane < LANES; lane++) {
        minima[0] = minima[lane] < minima[0] ? minima[lane] : minima[0];
        maxima[0] = maxima[lane] > maxima[0] ? maxima[lane] : maxima[0];
    }
    *least = minima[0];
    *most = maxima[0];
}

/* Caps the logits in place; the sum of their exponentials over that of `most`. small: all are, as nearly always. */
static inline double capped_sum(real *z, int count, real cap, real most, bool small) {
    real sums[LANES] = {0}, inverse = 1 / cap;
    double sum = 0;
    int whole = count - count % LANES;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            real y = z[i + lane] * inverse, capped = cap * (small ? real_tanh_small(y) : real_tanh(y));
            z[i + lane] = capped;
            sums[lane] += real_exp(capped - most);
        }
    for (int i = whole; i < count; i++) {
        z[i] = cap * real_tanh(z[i] * inverse);
        sum += real_exp(z[i] - most);
    }
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* The same, and returns the logarithm of the sum. */
static double cap_row(real *z, int count, real cap) {
    real least, most;
    extremes(z, count, &least, &most);
    bool small = -least < TANH_SMALL * cap && most < TANH_SMALL * cap;
    most = cap * real_tanh(most / cap);
    return most + log(small ? capped_sum(z, count, cap, most, true) : capped_sum(z, count, cap, most, false));
}

struct Rows {
    struct Classifier *classifier;
    const int32_t *targets;
    real scale; /* of the gradients; 0: none */
};

static void row_loss(void *context, int t) {
    const struct Rows *rows = context;
    struct Classifier *classifier = rows->classifier;
    int count = classifier->shape.classes, target = rows->targets[t];
    real cap = classifier->softcap, scale = rows->scale;
    real *z = classifier->logits + (size_t)t * (size_t)classifier->stride;
    double sum = cap_row(z, count, cap);
    real at_target = z[target];
    double loss = sum - at_target;
    classifier->losses[t] = loss < 0 ? 0 : loss; /* what is certain may round to less; NaN stays */
    if (scale == 0)
        return;
    real subtract = (real)sum, inverse = 1 / cap;
    for (int i = 0; i < count; i++) {
        real tanh = z[i] * inverse;
        z[i] = real_exp(z[i] - subtract) * (1 - tanh * tanh) * scale;
    }
    z[target] -= (1 - at_target * inverse * (at_target * inverse)) * scale;
}

double classifier_loss(struct Classifier *classifier, const real *embedding, const real *x, const int32_t *targets,
                       double scale, real *dx) {
    int dim = classifier->shape.dim, seq = classifier->shape.seq, classes = classifier->shape.classes;
    real *logits = classifier->logits;
    gemm(classifier->pool, true, true, seq, classes, dim, 1, x, seq, embedding, dim, 0, logits, classifier->stride);
    struct Rows rows = {classifier, targets, (real)(scale / seq)};
    pool_run(classifier->pool, seq, row_loss, &rows);
    if (scale > 0)
        gemm(classifier->pool, true, true, dim, seq, classes, 1, embedding, dim, logits, classifier->stride, 0, dx,
             seq);
    double sum = 0;
    for (int t = 0; t < seq; t++)
        sum += classifier->losses[t];
    return sum / seq;
}
