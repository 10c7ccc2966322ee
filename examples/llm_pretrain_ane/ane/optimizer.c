/* One update: a pass over the gradients for their norm, and one over everything that changes the weights and zeroes the
 * gradients. Both are limited by memory. */
#include "optimizer.h"

#include <stdlib.h>
#include <tgmath.h> /* sqrt of a real */

/* Numbers of a chunk: its sum of squares is one term of the norm. */
enum { CHUNK = 1 << 15, LANES = 16 };

double scheduled_rate(const struct Settings *settings, int64_t updates) {
    double peak = settings->learning_rate, least = settings->lr_min_frac, pi = acos(-1);
    int warmup = settings->warmup_steps, length = settings->total_steps - warmup;
    if (updates < warmup)
        return peak * (double)(updates + 1) / warmup;
    double progress = length > 0 && updates - warmup < length ? (double)(updates - warmup) / length : 1;
    return peak * (least + (1 - least) * 0.5 * (1 + cos(pi * progress)));
}

int scheduled_accumulation(const struct Settings *settings, int64_t updates) {
    int most = settings->accum_steps, ramp = settings->accum_ramp_steps;
    if (updates + 1 >= ramp)
        return most;
    int64_t steps = (most * (updates + 1) + ramp - 1) / ramp;
    return steps > 1 ? (int)steps : 1;
}

struct Chunk {
    struct Tensor *tensor;
    size_t begin, count;
    double squares;
};

struct Chunks {
    const struct Settings *settings;
    struct Chunk *chunks;
    int count;
    double rate, scale;        /* scale: of the gradients */
    double correct_m, correct_v; /* 1 / (1 - beta^t), t updates since the moments were zero */
};

static size_t size(const struct Tensor *tensor) {
    return (size_t)tensor->rows * (size_t)tensor->columns;
}

static void cut(struct Chunks *all, const struct Parameters *parameters) {
    size_t count = 0;
    for (int i = 0; i < parameters->count; i++)
        count += (size(&parameters->tensors[i]) + CHUNK - 1) / CHUNK;
    all->chunks = need(count, sizeof *all->chunks);
    for (int i = 0; i < parameters->count; i++) {
        struct Tensor *tensor = &parameters->tensors[i];
        for (size_t begin = 0, left = size(tensor); left > 0; begin += CHUNK) {
            struct Chunk chunk = {tensor, begin, left < CHUNK ? left : CHUNK, 0};
            all->chunks[all->count++] = chunk;
            left -= chunk.count;
        }
    }
}

static void squares(void *context, int part) {
    struct Chunk *chunk = &((struct Chunks *)context)->chunks[part];
    const real *gradient = chunk->tensor->gradient + chunk->begin;
    double lanes[LANES] = {0}, sum = 0;
    size_t whole = chunk->count - chunk->count % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += (double)gradient[i + (size_t)lane] * (double)gradient[i + (size_t)lane];
    for (size_t i = whole; i < chunk->count; i++)
        sum += (double)gradient[i] * (double)gradient[i];
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    chunk->squares = sum;
}

static void lion(const struct Chunk *chunk, const struct Settings *settings, real rate, real decay, real scale) {
    real *restrict w = chunk->tensor->weight + chunk->begin, *restrict g = chunk->tensor->gradient + chunk->begin;
    real *restrict m = chunk->tensor->m + chunk->begin;
    real beta1 = (real)settings->beta1, rest1 = (real)(1 - settings->beta1);
    real beta2 = (real)settings->beta2, rest2 = (real)(1 - settings->beta2);
    for (size_t i = 0; i < chunk->count; i++) {
        real gradient = g[i] * scale, mixed = beta1 * m[i] + rest1 * gradient;
        real step = mixed > 0 ? rate : mixed < 0 ? -rate : 0;
        w[i] -= decay * w[i] + step;
        m[i] = beta2 * m[i] + rest2 * gradient;
        g[i] = 0;
    }
}

static void adamw(const struct Chunk *chunk, const struct Chunks *all, real rate, real decay, real scale) {
    const struct Settings *settings = all->settings;
    real *restrict w = chunk->tensor->weight + chunk->begin, *restrict g = chunk->tensor->gradient + chunk->begin;
    real *restrict m = chunk->tensor->m + chunk->begin, *restrict v = chunk->tensor->v + chunk->begin;
    real beta1 = (real)settings->beta1, rest1 = (real)(1 - settings->beta1), epsilon = (real)settings->epsilon;
    real beta2 = (real)settings->beta2, rest2 = (real)(1 - settings->beta2);
    real step = rate * (real)all->correct_m, correct = (real)all->correct_v;
    for (size_t i = 0; i < chunk->count; i++) {
        real gradient = g[i] * scale;
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
        w[i] -= decay * w[i] + step * m[i] / (sqrt(v[i] * correct) + epsilon);
        g[i] = 0;
    }
}

static void change(void *context, int part) {
    const struct Chunks *all = context;
    const struct Chunk *chunk = &all->chunks[part];
    const struct Settings *settings = all->settings;
    enum Group group = chunk->tensor->group;
    double rate = all->rate * (group == MATRIX      ? settings->matrix_lr_scale
                               : group == EMBEDDING ? settings->embed_lr_scale
                                                    : 1);
    double decay = group == MATRIX ? rate * settings->weight_decay : 0;
    if (settings->lion)
        lion(chunk, settings, (real)rate, (real)decay, (real)all->scale);
    else
        adamw(chunk, all, (real)rate, (real)decay, (real)all->scale);
}

struct Update optimizer_update(const struct Settings *settings, struct Parameters *parameters, struct Pool *pool,
                               int64_t updates, int64_t moment_updates, int micro_steps) {
    struct Chunks all = {.settings = settings, .rate = scheduled_rate(settings, updates)};
    cut(&all, parameters);
    pool_run(pool, all.count, squares, &all);
    double sum = 0;
    for (int i = 0; i < all.count; i++)
        sum += all.chunks[i].squares;
    all.scale = 1 / (micro_steps * settings->loss_scale);
    struct Update update = {.norm = sqrt(sum) * all.scale, .rate = all.rate};
    update.skipped = !isfinite(update.norm);
    update.clipped = !update.skipped && update.norm > settings->grad_clip;
    if (update.clipped)
        all.scale *= settings->grad_clip / update.norm;
    all.correct_m = 1 / (1 - pow(settings->beta1, (double)moment_updates + 1));
    all.correct_v = 1 / (1 - pow(settings->beta2, (double)moment_updates + 1));
    if (update.skipped)
        gradients_zero(parameters, pool);
    else
        pool_run(pool, all.count, change, &all);
    free(all.chunks);
    return update;
}
