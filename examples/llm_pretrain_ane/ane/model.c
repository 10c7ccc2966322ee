/* A step forward and back. What the jobs behind read (each layer's activations and gradients, the classifier's) is not
 * written again before its group of jobs is done: group `layer` for a layer's matrices, `layers` for the embedding. */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "classifier.h"
#include "elementwise.h"
#include "gemm.h"

/* h1 and h3 become their gradients on the way back. df and dout: alpha times the gradients of the layer's two sums. */
struct Layer {
    real *memory;
    real *x, *xn, *q, *k, *v, *a, *x2, *x2n, *df, *dout, *dq, *dk, *dv; /* [dim, seq] */
    real *h1, *h3, *u;                                                   /* [hidden, seq] */
    real *inverse_attention, *inverse_ffn;                               /* [seq] */
};
enum { OF_DIM = 13, OF_HIDDEN = 3 };

struct Model {
    struct Parameters *parameters;
    struct Kernels *kernels;
    struct Pool *pool;
    struct Timers *timers;
    struct Classifier *classifier;
    struct Shape shape;
    real alpha, max_act; /* max_act INFINITY: no clamp */
    double loss_scale;
    int32_t *inputs, *targets; /* [seq] */
    struct Layer *layers;
    real *last, *normed, *inverse; /* what the classifier's norm takes and gives */
    real *branch, *dx, *dy, *da;   /* [dim, seq]; dy: gradient of the residual stream */
    real *du;                      /* [hidden, seq] */
    real *sums, *cosines, *sines;
    double mark, io; /* when the phase began, and the time for io until then */
};

static real *slice(real **rest, size_t count) {
    real *begin = *rest;
    *rest += count;
    return begin;
}

static void layer_new(struct Layer *layer, size_t dim_seq, size_t hidden_seq, size_t seq) {
    real *rest = layer->memory = need(OF_DIM * dim_seq + OF_HIDDEN * hidden_seq + 2 * seq, sizeof(real));
    real **of_dim[OF_DIM] = {&layer->x,  &layer->xn, &layer->q,    &layer->k,  &layer->v,  &layer->a, &layer->x2,
                             &layer->x2n, &layer->df, &layer->dout, &layer->dq, &layer->dk, &layer->dv};
    real **of_hidden[OF_HIDDEN] = {&layer->h1, &layer->h3, &layer->u};
    for (int i = 0; i < OF_DIM; i++)
        *of_dim[i] = slice(&rest, dim_seq);
    for (int i = 0; i < OF_HIDDEN; i++)
        *of_hidden[i] = slice(&rest, hidden_seq);
    layer->inverse_attention = slice(&rest, seq);
    layer->inverse_ffn = slice(&rest, seq);
}

static bool trains(const struct Model *model) {
    return embedding(model->parameters)->gradient != NULL;
}

struct Model *model_new(struct Parameters *parameters, struct Kernels *kernels, struct Pool *pool, double softcap,
                        double max_act, double loss_scale, struct Timers *timers) {
    struct Model *model = need(1, sizeof *model);
    const struct Shape *shape = &parameters->shape;
    size_t seq = (size_t)shape->seq, dim_seq = (size_t)shape->dim * seq, hidden_seq = (size_t)shape->hidden * seq;
    size_t pairs = seq * (size_t)(shape->dim / shape->heads / 2);
    model->parameters = parameters;
    model->kernels = kernels;
    model->pool = pool;
    model->timers = timers;
    model->shape = *shape;
    model->alpha = (real)(1 / sqrt(2.0 * shape->layers));
    model->max_act = max_act > 0 ? (real)max_act : (real)INFINITY;
    model->loss_scale = loss_scale;
    model->classifier = classifier_new(shape, pool, softcap);
    model->inputs = need(seq, sizeof *model->inputs);
    model->targets = need(seq, sizeof *model->targets);
    model->layers = need((size_t)shape->layers, sizeof *model->layers);
    for (int layer = 0; layer < shape->layers; layer++)
        if (layer == 0 || trains(model))
            layer_new(&model->layers[layer], dim_seq, hidden_seq, seq);
        else /* without a way back a layer may overwrite the one before */
            model->layers[layer] = model->layers[0];
    real **of_dim[] = {&model->last, &model->normed, &model->branch, &model->dx, &model->dy, &model->da};
    for (size_t i = 0; i < sizeof of_dim / sizeof *of_dim; i++)
        *of_dim[i] = need(dim_seq, sizeof(real));
    model->inverse = need(seq, sizeof(real));
    model->du = need(hidden_seq, sizeof(real));
    model->sums = need(norm_sums(shape->dim, shape->seq), sizeof(real));
    model->cosines = need(pairs, sizeof(real));
    model->sines = need(pairs, sizeof(real));
    rope_tables(shape, model->cosines, model->sines);
    return model;
}

void model_free(struct Model *model) {
    if (model == NULL)
        return;
    pool_wait(model->pool, -1);
    for (int layer = 0; layer < (trains(model) ? model->shape.layers : 1); layer++)
        free(model->layers[layer].memory);
    void *owned[] = {model->inputs, model->targets, model->layers, model->last, model->normed, model->inverse,
                     model->branch, model->dx,      model->dy,     model->da,   model->du,     model->sums,
                     model->cosines, model->sines};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    classifier_free(model->classifier);
    free(model);
}

/* Time from the last call on goes to the phase, without what the kernels themselves counted as io. */
static void lap(struct Model *model, enum Phase phase) {
    struct Timers *timers = model->timers;
    if (timers == NULL)
        return;
    double now = seconds(), io = timers->seconds[PHASE_IO];
    timers->seconds[phase] += now - model->mark - (io - model->io);
    model->mark = now;
    model->io = io;
}

static void start(struct Model *model) {
    if (model->timers == NULL)
        return;
    model->mark = seconds();
    model->io = model->timers->seconds[PHASE_IO];
}

void model_stage(struct Model *model) {
    start(model);
    for (int layer = 0; layer < model->shape.layers; layer++) {
        const struct Tensor *tensors = layer_tensor(model->parameters, layer, 0);
        struct LayerWeights weights = {tensors[WQ].weight, tensors[WK].weight, tensors[WV].weight, tensors[WO].weight,
                                       tensors[W1].weight, tensors[W2].weight, tensors[W3].weight};
        model->kernels->stage(model->kernels->self, layer, &weights);
    }
    lap(model, PHASE_STAGE);
}

static void layer_forward(struct Model *model, int index) {
    struct Layer *layer = &model->layers[index];
    struct Kernels *kernels = model->kernels;
    int dim = model->shape.dim, seq = model->shape.seq;
    const struct Tensor *tensors = layer_tensor(model->parameters, index, 0);
    real *next = index + 1 < model->shape.layers ? layer[1].x : model->last;
    pool_wait(model->pool, index);
    lap(model, PHASE_WAIT);
    struct Norm attention = {dim, seq, layer->x, NULL, 0, tensors[GAIN_ATTENTION].weight, NULL, layer->xn,
                             layer->inverse_attention};
    norm(model->pool, &attention);
    lap(model, PHASE_NORMS);
    kernels->attention(kernels->self, index, layer->xn, model->branch, layer->a, layer->q, layer->k, layer->v);
    lap(model, PHASE_KERNELS_FORWARD);
    struct Norm ffn = {dim, seq, layer->x, model->branch, model->alpha, tensors[GAIN_FFN].weight, layer->x2, layer->x2n,
                       layer->inverse_ffn};
    norm(model->pool, &ffn);
    lap(model, PHASE_NORMS);
    kernels->ffn(kernels->self, index, layer->x2n, layer->x2, next, layer->h1, layer->h3, layer->u);
    lap(model, PHASE_KERNELS_FORWARD);
    if (model->max_act < (real)INFINITY)
        clamp(model->pool, (size_t)dim * (size_t)seq, model->max_act, next);
    lap(model, PHASE_ELEMENTWISE);
}

/* From tokens to the mean loss; with gradients down to dx, the one of the classifier's normed input. */
static double forward(struct Model *model, bool gradients) {
    const struct Tensor *table = embedding(model->parameters);
    int dim = model->shape.dim, seq = model->shape.seq, layers = model->shape.layers;
    embed(model->pool, dim, seq, table->weight, model->inputs, model->layers[0].x);
    lap(model, PHASE_CLASSIFIER);
    for (int layer = 0; layer < layers; layer++)
        layer_forward(model, layer);
    struct Norm final = {dim, seq, model->last, NULL, 0, final_gain(model->parameters)->weight, NULL, model->normed,
                         model->inverse};
    norm(model->pool, &final);
    lap(model, PHASE_NORMS);
    double loss = classifier_loss(model->classifier, table->weight, model->normed, model->targets,
                                  gradients ? model->loss_scale : 0, model->dx);
    lap(model, PHASE_CLASSIFIER);
    return loss;
}

/* A gradient of weights, to be added behind: c [m, n] += a [m, depth] times the transpose of b [n, depth]. */
struct Outer {
    bool transposed; /* a is [depth, m] */
    int m, n, depth, lda, ldb;
    const real *a, *b;
    real *c;
};
/* Rows of a part: few enough for several threads, enough to be worth packing the other factor. */
enum { OUTER_ROWS = 1024 };

static void outer_part(void *context, int part) {
    const struct Outer *job = context;
    int begin = part * OUTER_ROWS, rows = job->m - begin < OUTER_ROWS ? job->m - begin : OUTER_ROWS;
    const real *a = job->a + (size_t)begin * (job->transposed ? 1 : (size_t)job->lda);
    gemm(NULL, job->transposed, true, rows, job->n, job->depth, 1, a, job->lda, job->b, job->ldb, 1,
         job->c + (size_t)begin * (size_t)job->n, job->n);
}

static void outer_behind(struct Model *model, struct Outer job, int group) {
    pool_behind(model->pool, (job.m + OUTER_ROWS - 1) / OUTER_ROWS, outer_part, &job, sizeof job, job.c, group);
}

static void matrix_behind(struct Model *model, int layer, int which, const real *dy, const real *x) {
    struct Tensor *tensor = layer_tensor(model->parameters, layer, which);
    int seq = model->shape.seq;
    struct Outer job = {false, tensor->rows, tensor->columns, seq, seq, seq, dy, x, tensor->gradient};
    outer_behind(model, job, layer);
}

struct Turn {
    struct Shape head; /* of one head */
    const struct Model *model;
    struct Layer *layer;
};

static void turn_back_head(void *context, int part) {
    const struct Turn *turn = context;
    size_t at = (size_t)part / 2 * (size_t)turn->head.dim * (size_t)turn->head.seq;
    real *x = part % 2 == 0 ? turn->layer->dq : turn->layer->dk;
    rope_turn(&turn->head, turn->model->cosines, turn->model->sines, true, x + at);
}

/* From dy, the gradient of the layer's output, whose product with alpha is in df, to that of its input. */
static void layer_back(struct Model *model, int index) {
    struct Layer *layer = &model->layers[index];
    struct Kernels *kernels = model->kernels;
    const struct Shape *shape = &model->shape;
    struct Tensor *tensors = layer_tensor(model->parameters, index, 0);
    matrix_behind(model, index, W2, layer->df, layer->u);
    kernels->ffn_back_w2(kernels->self, index, layer->df, model->du);
    lap(model, PHASE_KERNELS_BACKWARD);
    silu_back(model->pool, (size_t)shape->hidden * (size_t)shape->seq, model->du, layer->h1, layer->h3);
    lap(model, PHASE_ELEMENTWISE);
    matrix_behind(model, index, W1, layer->h1, layer->x2n);
    matrix_behind(model, index, W3, layer->h3, layer->x2n);
    kernels->ffn_back_w13(kernels->self, index, layer->h1, layer->h3, model->dx);
    lap(model, PHASE_KERNELS_BACKWARD);
    struct NormBack ffn = {shape->dim, shape->seq, layer->x2, layer->inverse_ffn, tensors[GAIN_FFN].weight, model->dx,
                           (real)INFINITY, model->alpha, model->dy, layer->dout, tensors[GAIN_FFN].gradient,
                           model->sums};
    norm_back(model->pool, &ffn);
    lap(model, PHASE_NORMS);
    matrix_behind(model, index, WO, layer->dout, layer->a);
    kernels->wo_back(kernels->self, index, layer->dout, model->da);
    kernels->sdpa_back(kernels->self, layer->q, layer->k, layer->v, model->da, layer->dq, layer->dk, layer->dv);
    lap(model, PHASE_KERNELS_BACKWARD);
    if (shape->rope) {
        struct Turn turn = {*shape, model, layer};
        turn.head.dim = shape->dim / shape->heads;
        turn.head.heads = 1;
        pool_run(model->pool, 2 * shape->heads, turn_back_head, &turn);
        lap(model, PHASE_ELEMENTWISE);
    }
    matrix_behind(model, index, WQ, layer->dq, layer->xn);
    matrix_behind(model, index, WK, layer->dk, layer->xn);
    matrix_behind(model, index, WV, layer->dv, layer->xn);
    kernels->qkv_back(kernels->self, index, layer->dq, layer->dk, layer->dv, model->dx);
    lap(model, PHASE_KERNELS_BACKWARD);
    /* The input of layer 0 is the embedding, which is not clamped. */
    struct NormBack attention = {shape->dim, shape->seq, layer->x, layer->inverse_attention,
                                 tensors[GAIN_ATTENTION].weight, model->dx, index > 0 ? model->max_act : (real)INFINITY,
                                 model->alpha, model->dy, index > 0 ? layer[-1].df : NULL,
                                 tensors[GAIN_ATTENTION].gradient, model->sums};
    norm_back(model->pool, &attention);
    lap(model, PHASE_NORMS);
}

struct Scatter {
    int dim, seq;
    const real *dy;
    const int32_t *inputs;
    real *gradient;
};

static void scatter_part(void *context, int part) {
    const struct Scatter *job = context;
    embed_back(part, job->dim, job->seq, job->dy, job->inputs, job->gradient);
}

static void back(struct Model *model) {
    const struct Shape *shape = &model->shape;
    struct Tensor *table = embedding(model->parameters), *gain = final_gain(model->parameters);
    struct Outer classifier = {true, shape->classes, shape->dim, shape->seq, model->classifier->stride, shape->seq,
                               model->classifier->logits, model->normed, table->gradient};
    outer_behind(model, classifier, shape->layers);
    memset(model->dy, 0, (size_t)shape->dim * (size_t)shape->seq * sizeof *model->dy);
    struct NormBack final = {shape->dim, shape->seq, model->last, model->inverse, gain->weight, model->dx,
                             model->max_act, model->alpha, model->dy, model->layers[shape->layers - 1].df,
                             gain->gradient, model->sums};
    norm_back(model->pool, &final);
    lap(model, PHASE_NORMS);
    for (int layer = shape->layers - 1; layer >= 0; layer--)
        layer_back(model, layer);
    struct Scatter scatter = {shape->dim, shape->seq, model->dy, model->inputs, table->gradient};
    pool_behind(model->pool, SCATTERS, scatter_part, &scatter, sizeof scatter, table->gradient, shape->layers);
    lap(model, PHASE_CLASSIFIER);
}

static void window(struct Model *model, const int32_t *inputs, const int32_t *targets) {
    pool_wait(model->pool, model->shape.layers); /* the embedding's jobs read inputs, normed, logits and dy */
    memcpy(model->inputs, inputs, (size_t)model->shape.seq * sizeof *inputs);
    memcpy(model->targets, targets, (size_t)model->shape.seq * sizeof *targets);
}

double model_loss(struct Model *model, const int32_t *inputs, const int32_t *targets) {
    struct Timers *timers = model->timers;
    start(model);
    model->timers = NULL; /* all of it is one phase */
    window(model, inputs, targets);
    double loss = forward(model, false);
    model->timers = timers;
    lap(model, PHASE_VALIDATION);
    return loss;
}

double model_train(struct Model *model, const int32_t *inputs, const int32_t *targets) {
    start(model);
    window(model, inputs, targets);
    lap(model, PHASE_WAIT);
    double loss = forward(model, true);
    back(model);
    return loss;
}

void model_wait(struct Model *model) {
    start(model);
    pool_wait(model->pool, -1);
    lap(model, PHASE_WAIT);
}
