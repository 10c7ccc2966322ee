/* Tied classifier and loss: logits over the rows of the embedding, softcap cap tanh(z / cap), cross entropy. */
#ifndef CLASSIFIER_H
#define CLASSIFIER_H

#include "base.h"
#include "kernels.h"
#include "pool.h"

struct Classifier {
    struct Shape shape;
    struct Pool *pool;
    real softcap;
    int stride;     /* of the logits' rows: an odd number of cache lines, so that rows do not share sets of the cache */
    real *logits;   /* [seq, stride]; after classifier_loss with a scale their gradients */
    double *losses; /* [seq] */
};

struct Classifier *classifier_new(const struct Shape *shape, struct Pool *pool, double softcap);
void classifier_free(struct Classifier *classifier);
/* Mean loss of x [dim, seq]. With scale > 0 also the logits' gradients times it, and dx [dim, seq]. */
double classifier_loss(struct Classifier *classifier, const real *embedding, const real *x, const int32_t *targets,
                       double scale, real *dx);

#endif
