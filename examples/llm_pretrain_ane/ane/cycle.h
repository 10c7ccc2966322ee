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
    /* Of the clock of seconds(): the last moment at which the cycle may end. */
    double deadline;
    int64_t most_steps;
    double step_seconds, update_seconds; /* what they may take; estimated before, measured during the cycle */

    struct Checkpoint *state; /* counters, order of the data and mean loss go on here */
    int64_t steps, updates, skipped;
    double loss; /* of the last micro-step */
};

/* At least one micro-step, and an update of what is accumulated at the end. False when the training diverged. */
bool cycle_run(struct Cycle *cycle, struct Problem *problem);

#endif
