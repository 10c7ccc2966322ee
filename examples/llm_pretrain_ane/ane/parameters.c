/* The parameters' memory and their first values. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static void tensor_new(struct Tensor *tensor, enum Group group, int rows, int columns, enum Moments moments) {
    size_t count = (size_t)rows * (size_t)columns;
    tensor->group = group;
    tensor->rows = rows;
    tensor->columns = columns;
    tensor->weight = need(count, sizeof(real));
    if (moments != NO_TRAINING) {
        tensor->gradient = need(count, sizeof(real));
        tensor->m = need(count, sizeof(real));
    }
    if (moments == ADAMW)
        tensor->v = need(count, sizeof(real));
}

struct Parameters *parameters_new(const struct Shape *shape, enum Moments moments) {
    static const char *const names[PER_LAYER] = {"wq", "wk", "wv", "wo",           "w1",
                                                 "w2", "w3", "gain_attention", "gain_ffn"};
    int dim = shape->dim, hidden = shape->hidden;
    struct Parameters *parameters = need(1, sizeof *parameters);
    parameters->shape = *shape;
    parameters->count = shape->layers * PER_LAYER + 2;
    parameters->tensors = need((size_t)parameters->count, sizeof *parameters->tensors);
    for (int layer = 0; layer < shape->layers; layer++)
        for (int which = 0; which < PER_LAYER; which++) {
            struct Tensor *tensor = layer_tensor(parameters, layer, which);
            bool gain = which >= GAIN_ATTENTION;
            int rows = gain ? 1 : which == W1 || which == W3 ? hidden : dim;
            snprintf(tensor->name, sizeof tensor->name, "layer%d.%s", layer, names[which]);
            tensor_new(tensor, gain ? GAIN : MATRIX, rows, which == W2 ? hidden : dim, moments);
        }
    snprintf(final_gain(parameters)->name, sizeof final_gain(parameters)->name, "gain");
    tensor_new(final_gain(parameters), GAIN, 1, dim, moments);
    snprintf(embedding(parameters)->name, sizeof embedding(parameters)->name, "embedding");
    tensor_new(embedding(parameters), EMBEDDING, shape->classes, dim, moments);
    return parameters;
}

void parameters_free(struct Parameters *parameters) {
    if (parameters == NULL)
        return;
    for (int i = 0; i < parameters->count; i++) {
        struct Tensor *tensor = &parameters->tensors[i];
        free(tensor->weight);
        free(tensor->gradient);
        free(tensor->m);
        free(tensor->v);
    }
    free(parameters->tensors);
    free(parameters);
}

static void fill(struct Random *random, real *values, size_t count, double most) {
    for (size_t i = 0; i < count; i++)
        values[i] = (real)((2 * random_uniform(random) - 1) * most);
}

void embedding_row(real *row, int dim, uint64_t seed, int token) {
    struct Random random;
    random_seed(&random, ~seed); /* the matrices have the stream of seed itself */
    random_seed(&random, random_next(&random) ^ (uint64_t)token * 0xD1B54A32D192ED03u);
    fill(&random, row, (size_t)dim, 0.02);
}

void parameters_initialise(struct Parameters *parameters, uint64_t seed, const uint16_t *tokens) {
    const struct Shape *shape = &parameters->shape;
    double alpha = 1 / sqrt(2.0 * shape->layers);
    struct Random random;
    random_seed(&random, seed);
    for (int i = 0; i < parameters->count - 1; i++) {
        struct Tensor *tensor = &parameters->tensors[i];
        size_t count = (size_t)tensor->rows * (size_t)tensor->columns;
        int which = i % PER_LAYER;
        if (tensor->group == GAIN)
            for (size_t j = 0; j < count; j++)
                tensor->weight[j] = 1;
        else
            fill(&random, tensor->weight, count, (which == WO || which == W2 ? alpha : 1) / sqrt(tensor->columns));
    }
    for (int row = 0; row < shape->classes; row++)
        embedding_row(embedding(parameters)->weight + (size_t)row * (size_t)shape->dim, shape->dim, seed,
                      tokens == NULL ? row : tokens[row]);
}

static void zero_tensor(void *context, int part) {
    struct Tensor *tensor = &((struct Parameters *)context)->tensors[part];
    size_t count = (size_t)tensor->rows * (size_t)tensor->columns;
    for (size_t i = 0; i < count; i++)
        tensor->gradient[i] = 0;
}

void gradients_zero(struct Parameters *parameters, struct Pool *pool) {
    pool_run(pool, parameters->count, zero_tensor, parameters);
}
