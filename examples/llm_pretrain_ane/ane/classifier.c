/* All logits are there at once, since their gradients are needed behind the step and each further product would pack the
 * embedding again; one token's are contiguous, so that its softmax stays in the cache. */
#include "classifier.h"

#include <math.h>
#include <stdlib.h>

#include "elementary.h"
#include "gemm.h"

enum { LANES = 16 };

struct Classifier *classifier_new(const struct Shape *shape, struct Pool *pool, double softcap) {
    struct Classifier *classifier = need(1, sizeof *classifier);
    classifier->shape = *shape;
    classifier->pool = pool;
    classifier->softcap = (real)softcap;
    classifier->logits = need((size_t)shape->seq * (size_t)shape->classes, sizeof(real));
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

/* Caps the logits in place and returns the logarithm of the sum of their exponentials. */
static double capped_sum(real *z, int count, real cap) {
    real most = -INFINITY, maxima[LANES], sums[LANES] = {0};
    for (int lane = 0; lane < LANES; lane++)
        maxima[lane] = most;
    int whole = count - count % LANES;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            real capped = cap * real_tanh(z[i + lane] / cap);
            z[i + lane] = capped;
            maxima[lane] = capped > maxima[lane] ? capped : maxima[lane];
        }
    for (int i = whole; i < count; i++) {
        z[i] = cap * real_tanh(z[i] / cap);
        most = z[i] > most ? z[i] : most;
    }
    for (int lane = 0; lane < LANES; lane++)
        most = maxima[lane] > most ? maxima[lane] : most;
    for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += real_exp(z[i + lane] - most);
    double sum = 0;
    for (int i = whole; i < count; i++)
        sum += real_exp(z[i] - most);
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return most + log(sum);
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
    real *z = classifier->logits + (size_t)t * (size_t)count;
    double sum = capped_sum(z, count, cap);
    real at_target = z[target];
    classifier->losses[t] = sum - at_target;
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
    gemm(classifier->pool, true, true, seq, classes, dim, 1, x, seq, embedding, dim, 0, classifier->logits, classes);
    struct Rows rows = {classifier, targets, (real)(scale / seq)};
    pool_run(classifier->pool, seq, row_loss, &rows);
    if (scale > 0)
        gemm(classifier->pool, true, true, dim, seq, classes, 1, embedding, dim, classifier->logits, classes, 0, dx, seq);
    double sum = 0;
    for (int t = 0; t < seq; t++)
        sum += classifier->losses[t];
    return sum / seq;
}
