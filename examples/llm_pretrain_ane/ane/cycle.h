/* One cycle of training: micro-steps and updates until the wall time is nearly used up. */
#ifndef CYCLE_H
#define CYCLE_H

#include <signal.h>

#include "checkpoint.h"
#include "model.h"
#include "optimizer.h"
#include "pool.h"
#include "timers.h"
#include "tokens.h"

struct Cycle {
    const struct Settings *settings;
    const struct Tokens *tokens;
    struct Parameters *parameters;
    struct Model *model;
    struct Pool *pool;
    struct Timers *timers;
    const volatile sig_atomic_t *stop; /* ends the cycle after the micro-step when it is not 0 */
    int64_t log_every;                 /* micro-steps; 0: no log */
    /* The wall time runs from `begin`, of the clock of seconds(), until the checkpoint is written. */
    double begin, wall_seconds;
    int64_t most_steps;
    int validation_windows; /* that come after the cycle */
    /* What these take; estimated before, and all but the last measured during the cycle. */
    double step_seconds, update_seconds, forward_seconds, save_seconds;

    struct Checkpoint *state; /* counters, order of the data and mean loss go on here */
    int64_t steps, updates, skipped;
    double loss; /* of the last micro-step */
};

/* The shortest wall time that has room for a step and all that follows. */
double cycle_least_seconds(const struct Cycle *cycle);
/* At least one micro-step, and an update of what is accumulated at the end. False when the training diverged. */
bool cycle_run(struct Cycle *cycle, struct Problem *problem);

#endif
