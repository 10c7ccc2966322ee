/* The model, its parameters, and a step of training: everything but the eight kernels.
 *
 * Activations are channel-first, [C, S] row-major; weights [out, in] row-major. One micro-step is one sequence of S
 * tokens. Residuals are scaled by alpha = 1 / sqrt(2 layers); the embedding is tied with the classifier; eps of the norms
 * is 1e-5. */
#ifndef MODEL_H
#define MODEL_H

#include "base.h"
#include "kernels.h"
#include "pool.h"
#include "timers.h"

/* In the order of checkpoints. */
enum { WQ, WK, WV, WO, W1, W2, W3, GAIN_ATTENTION, GAIN_FFN, PER_LAYER };
enum Group { MATRIX, GAIN, EMBEDDING };

struct Tensor {
    char name[24]; /* such as layer0.wq, gain, embedding */
    enum Group group;
    int rows, columns;
    real *weight, *gradient, *m, *v; /* [rows, columns]; gradient, m and v NULL without training; v NULL for Lion */
};

/* Tensor layer * PER_LAYER + WQ and so on, then the final gain [1, dim], then the embedding [classes, dim]. */
struct Parameters {
    struct Shape shape;
    int count;
    struct Tensor *tensors;
};

enum Moments { NO_TRAINING, LION, ADAMW };
struct Parameters *parameters_new(const struct Shape *shape, enum Moments moments);
void parameters_free(struct Parameters *parameters);
/* Uniform, by fan-in; gains 1. Row r of the embedding is drawn from a stream of its own for the token id tokens[r]
   (NULL: r), so that a compacted table is the full one's rows. */
void parameters_initialise(struct Parameters *parameters, uint64_t seed, const uint16_t *tokens);
/* One row of dim numbers of the embedding as initialised. */
void embedding_row(real *row, int dim, uint64_t seed, int token);
void gradients_zero(struct Parameters *parameters, struct Pool *pool);
static inline struct Tensor *layer_tensor(const struct Parameters *parameters, int layer, int which) {
    return &parameters->tensors[layer * PER_LAYER + which];
}
static inline struct Tensor *final_gain(const struct Parameters *parameters) {
    return &parameters->tensors[parameters->count - 2];
}
static inline struct Tensor *embedding(const struct Parameters *parameters) {
    return &parameters->tensors[parameters->count - 1];
}

struct Model;
/* Keeps the pointers. `loss_scale` multiplies the gradients of the logits. softcap > 0; max_act clamps the residual
   stream after each layer, its gradient masked where clamped; 0: no clamp. `timers` may be NULL. */
struct Model *model_new(struct Parameters *parameters, struct Kernels *kernels, struct Pool *pool, double softcap,
                        double max_act, double loss_scale, struct Timers *timers);
void model_free(struct Model *model);
/* Gives the kernels the weights; after each change of them. */
void model_stage(struct Model *model);
/* Mean loss in nats of one window: inputs and targets are rows of the embedding, [seq]. */
double model_loss(struct Model *model, const int32_t *inputs, const int32_t *targets);
/* The same, and loss_scale times its gradients are added to those of the parameters, some of them behind: they are
   complete after model_wait. inputs and targets are copied. */
double model_train(struct Model *model, const int32_t *inputs, const int32_t *targets);
void model_wait(struct Model *model);

#endif
