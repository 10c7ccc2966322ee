/* AdamW (Loshchilov and Hutter, 2019) and Lion (Chen et al., 2023), with groups, clipping and a cosine schedule. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "base.h"
#include "model.h"
#include "pool.h"
#include "settings.h"

/* Learning rate of the update after `updates` updates, before the scales of groups. */
double scheduled_rate(const struct Settings *settings, int64_t updates);
/* Micro-steps of that update: accum_steps, reached in a straight line over the first accum_ramp_steps updates. */
int scheduled_accumulation(const struct Settings *settings, int64_t updates);

struct Update {
    double norm; /* of all gradients, unscaled, before clipping */
    double rate;
    bool clipped, skipped; /* skipped: the norm was not finite, and nothing but the gradients was changed */
};
/* Divides the gradients by micro_steps and loss_scale, clips, changes the weights, zeroes the gradients. `updates` counts
   those done before, and `moment_updates` those of them since the moments were zero; skipped ones not. Deterministic
   for any number of threads. */
struct Update optimizer_update(const struct Settings *settings, struct Parameters *parameters, struct Pool *pool,
                               int64_t updates, int64_t moment_updates, int micro_steps);

#endif
