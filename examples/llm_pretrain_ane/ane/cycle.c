/* What happens in a cycle depends on the clock only in when it ends, so that cycles can be repeated bit by bit. */
#include "cycle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_SKIPPED = 10 };
static const double average_decay = 0.98;

struct Accumulation {
    int32_t *inputs, *targets;
    int micro_steps;
    int skipped_in_a_row;
};

static bool next_window(struct Cycle *cycle, struct Accumulation *a, struct Problem *p) {
    int64_t begin, end;
    int seq = cycle->settings->seq;
    tokens_split(cycle->tokens, TRAIN, &begin, &end);
    uint64_t starts = (uint64_t)(end - begin - seq);
    int64_t start = begin + (int64_t)random_below(&cycle->state->order, starts);
    return tokens_window(cycle->tokens, start, seq, a->inputs, a->targets, p);
}

/* A loss that is not finite is met by the guard of the update, and would stay in the mean for ever. */
static void average(struct Checkpoint *state, double loss) {
    if (isfinite(loss)) {
        bool first = !isfinite(state->loss_average);
        state->loss_average = first ? loss : average_decay * state->loss_average + (1 - average_decay) * loss;
    }
}

static bool micro_step(struct Cycle *cycle, struct Accumulation *a, struct Problem *p) {
    if (!next_window(cycle, a, p)) {
        return false;
    }
    cycle->loss = model_train(cycle->model, a->inputs, a->targets);
    average(cycle->state, cycle->loss);
    a->micro_steps++;
    cycle->steps++;
    cycle->state->micro_steps++;
    return true;
}

static bool update(struct Cycle *cycle, struct Accumulation *a, struct Problem *p) {
    double begin = seconds();
    model_wait(cycle->model);
    double waited = seconds();
    struct Update done = optimizer_update(cycle->settings, cycle->parameters, cycle->pool, cycle->state->updates,
                                          cycle->state->moment_updates, a->micro_steps);
    cycle->timers->seconds[PHASE_UPDATE] += seconds() - waited;
    a->micro_steps = 0;
    if (done.skipped) {
        cycle->skipped++;
        cycle->state->skipped++;
        a->skipped_in_a_row++;
        return a->skipped_in_a_row < MOST_SKIPPED ||
               problem(p, "the training diverged: the gradients of %d updates in a row were not finite", MOST_SKIPPED);
    }
    a->skipped_in_a_row = 0;
    model_stage(cycle->model);
    cycle->update_seconds = fmax(cycle->update_seconds * average_decay, seconds() - begin);
    cycle->updates++;
    cycle->state->updates++;
    cycle->state->moment_updates++;
    return true;
}

static void log_step(const struct Cycle *cycle) {
    const struct Checkpoint *state = cycle->state;
    if (cycle->log_every > 0 && (cycle->steps == 1 || cycle->steps % cycle->log_every == 0)) {
        printf("step %lld  loss %.4f  rate %.3e  accumulation %d  ms %.1f\n", (long long)state->micro_steps,
               state->loss_average, scheduled_rate(cycle->settings, state->updates),
               scheduled_accumulation(cycle->settings, state->updates), cycle->step_seconds * 1e3);
        fflush(stdout); /* what matters of standard output is checked at the end */
    }
}

/* The way forward is a third of a step or a little more. */
static void measure(struct Cycle *cycle, double step) {
    cycle->step_seconds = cycle->steps == 1 ? step : 0.9 * cycle->step_seconds + 0.1 * step;
    cycle->forward_seconds = 0.4 * (seconds() - cycle->begin) / (double)cycle->steps;
}

double cycle_least_seconds(const struct Cycle *cycle) {
    return cycle->step_seconds + cycle->update_seconds + cycle->validation_windows * cycle->forward_seconds +
           1.2 * cycle->save_seconds;
}

bool cycle_run(struct Cycle *cycle, struct Problem *p) {
    size_t seq = (size_t)cycle->settings->seq;
    struct Accumulation a = {.inputs = need(seq, sizeof(int32_t)), .targets = need(seq, sizeof(int32_t))};
    bool good = true;
    do {
        double begin = seconds();
        good = micro_step(cycle, &a, p);
        if (good) {
            measure(cycle, seconds() - begin);
        }
        log_step(cycle);
        if (good && a.micro_steps >= scheduled_accumulation(cycle->settings, cycle->state->updates)) {
            good = update(cycle, &a, p);
        }
    } while (good && !*cycle->stop && cycle->steps < cycle->most_steps &&
             seconds() - cycle->begin + cycle_least_seconds(cycle) <= cycle->wall_seconds);
    if (good && a.micro_steps > 0 && !*cycle->stop) {
        good = update(cycle, &a, p);
    }
    model_wait(cycle->model);
    free(a.inputs);
    free(a.targets);
    return good;
}
