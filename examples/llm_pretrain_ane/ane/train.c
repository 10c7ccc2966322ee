/* One cycle of training: from a checkpoint or from scratch, within a wall time, to a checkpoint. The file is compiled
 * with the settings of the experiment; only counters come from a checkpoint, settings never do.
 *
 * The final block, `---` and `key: value` lines, is printed only after the checkpoint is on the disk. The loss in it is
 * the trainer's own number; evaluate computes the one that counts. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "config.h"
#include "cycle.h"
#include "device.h"
#include "gemm.h"
#include "validation.h"

#ifdef __APPLE__
#define AUTO_BACKEND "ane"
#else
#define AUTO_BACKEND "cpu"
#endif

static const struct Settings settings = SETTINGS;

static volatile sig_atomic_t caught;

static void catch_signal(int number) {
    caught = number;
}

struct Options {
    const char *data, *checkpoint, *resume, *backend, *gemm;
    double wall_time;
    int64_t most_steps, seed, threads, log_every;
};

enum { NO_SEED = -1 };

static struct Options read_options(int argc, char **argv) {
    struct Options o = {.backend = "auto",
                        .gemm = "auto",
                        .most_steps = INT64_MAX,
                        .seed = NO_SEED,
                        .threads = default_threads(),
                        .log_every = 100};
    const struct Argument arguments[] = {
        {"--data", TEXT, "FILE", &o.data, 0, 0, "token file: little-endian 16-bit ids", 1},
        {"--checkpoint", TEXT, "FILE", &o.checkpoint, 0, 0, "what is written at the end", 1},
        {"--resume", TEXT, "FILE", &o.resume, 0, 0, "checkpoint to go on from", 0},
        {"--wall-time", SECONDS, "S", &o.wall_time, 0, 0,
         "seconds from the end of start-up until the checkpoint is written", 1},
        {"--max-steps", WHOLE, "N", &o.most_steps, 1, INT64_MAX,
         "end after N micro-steps; a last update then has fewer of them than the others, unless N is a multiple", 0},
        {"--seed", WHOLE, "N", &o.seed, 0, INT64_MAX,
         "of weights and order of the data, 0 at first; with --resume, another order from here on", 0},
        {"--backend", CHOICE, "auto|cpu|sim|ane", &o.backend, 0, 0,
         "where the kernels run; auto: ane on macOS, else cpu", 0},
        {"--threads", WHOLE, "N", &o.threads, 1, MOST_THREADS, "one per processor where it is not given", 0},
        {"--gemm", CHOICE, "auto|own|openblas|accelerate", &o.gemm, 0, 0, "matrix products of the CPU", 0},
        {"--log-every", WHOLE, "N", &o.log_every, 0, INT64_MAX, "micro-steps, 100 where it is not given; 0: no log", 0},
    };
    arguments_read(argc, argv, "train", arguments, sizeof arguments / sizeof *arguments);
    return o;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = catch_signal, .sa_flags = SA_RESETHAND}; /* the second one kills */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file that grows too large is an error of writing it */
}

static void stop_if_caught(void) {
    if (caught) {
        fprintf(stderr, "interrupted: no checkpoint was written\n");
        exit(128 + caught);
    }
}

static void check(bool good, const struct Problem *problem) {
    if (!good) {
        fail("%s", problem->text);
    }
}

/* Everything that a cycle works on. */
struct Trainer {
    struct Options options;
    struct Tokens tokens;
    struct Checkpoint state;
    struct Pool *pool;
    struct Timers timers;
    struct Parameters *parameters;
    struct Kernels cpu, device, *kernels;
    struct Model *model;
    double peak_tflops;
    double forward_seconds, save_seconds;
    double validation_loss;
};

static enum Moments moments_kind(void) {
    return settings.lion ? LION : ADAMW;
}

/* Other windows than without the seed, and others in each cycle. */
static void mix_order(struct Random *order, uint64_t seed) {
    struct Random other;
    random_seed(&other, seed);
    for (int i = 0; i < 4; ++i) {
        order->state[i] ^= other.state[i];
    }
    if ((order->state[0] | order->state[1] | order->state[2] | order->state[3]) == 0) {
        *order = other; /* from zeros the generator would never leave */
    }
}

static void start_fresh(struct Trainer *t) {
    const uint64_t order = UINT64_C(0x6F72646572); /* so that weights and windows are drawn from different streams */
    uint64_t seed = t->options.seed == NO_SEED ? 0 : (uint64_t)t->options.seed;
    t->state.init_seed = seed;
    random_seed(&t->state.order, seed ^ order << 24);
    t->state.loss_average = NAN;
    struct Shape shape = checkpoint_shape(&t->state, &t->tokens);
    t->parameters = parameters_new(&shape, moments_kind());
    parameters_initialise(t->parameters, seed, t->tokens.token_of);
}

static void start_from_checkpoint(struct Trainer *t) {
    struct Problem p;
    struct CheckpointFile file;
    check(checkpoint_open(&file, t->options.resume, &p), &p);
    check(checkpoint_matches_settings(&file, &settings, &p) && checkpoint_matches_tokens(&file, &t->tokens, &p), &p);
    t->parameters = checkpoint_parameters(&file, &t->tokens, moments_kind(), &p);
    check(t->parameters != NULL, &p);
    checkpoint_close(&file);
    t->state = file.header;
    if (file.header.lion != (int)settings.lion) {
        t->state.moment_updates = 0;
        fprintf(stderr, "notice: the checkpoint was trained with %s, so the moments begin at zero\n",
                file.header.lion ? "Lion" : "AdamW");
    }
    if (file.header.compact != (int)settings.vocab_compact) {
        fprintf(stderr,
                "notice: the checkpoint was trained with USE_VOCAB_COMPACT %d, so the embedding of ids that do not occur"
                " in the data begins anew\n",
                file.header.compact);
    }
    if (t->options.seed != NO_SEED) {
        mix_order(&t->state.order, (uint64_t)t->options.seed);
    }
}

static void choose_kernels(struct Trainer *t) {
    const struct Shape *shape = &t->parameters->shape;
    const char *backend = strcmp(t->options.backend, "auto") == 0 ? AUTO_BACKEND : t->options.backend;
    struct Problem p;
    t->cpu = cpu_kernels(shape, t->pool);
    t->kernels = &t->cpu;
    if (strcmp(backend, "sim") == 0) {
        check(device_kernels(&t->device, sim_executor(t->pool), t->cpu, shape, t->pool, true, &t->timers, &p), &p);
        t->kernels = &t->device;
    } else if (strcmp(backend, "ane") == 0) {
        struct Executor executor;
        unsigned qos;
        check(ane_qos(&qos, &p), &p); /* a slip of the user's is no reason to train on the CPU */
        if (ane_executor(&executor, &p) &&
            device_kernels(&t->device, executor, t->cpu, shape, t->pool, false, &t->timers, &p)) {
            t->kernels = &t->device;
        } else {
            fprintf(stderr, "notice: all kernels run on the CPU: %s\n", p.text);
        }
    }
}

/* How long a window takes forward, for the estimate of what has to be reserved; the second time, since the first one
   touches the memory. */
static void time_forward(struct Trainer *t) {
    struct Problem p;
    size_t seq = (size_t)settings.seq;
    int32_t *inputs = need(seq, sizeof *inputs), *targets = need(seq, sizeof *targets);
    check(tokens_window(&t->tokens, 0, settings.seq, inputs, targets, &p), &p);
    for (int i = 0; i < 2; ++i) {
        double begin = seconds();
        model_loss(t->model, inputs, targets);
        t->forward_seconds = seconds() - begin;
    }
    free(inputs);
    free(targets);
}

/* What the Neural Engine could do, as its maker says: of an M4 unless the environment says otherwise. */
static double peak_tflops(void) {
    const char *text = getenv("ANE_PEAK_TFLOPS");
    if (text == NULL) {
        return 15.8;
    }
    char *end;
    double peak = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || !isfinite(peak) || peak <= 0) {
        fail("ANE_PEAK_TFLOPS is '%s', but it is a positive number", text);
    }
    return peak;
}

static void start(struct Trainer *t) {
    struct Problem p;
    t->peak_tflops = peak_tflops();
    check(settings_check(&settings, &p), &p);
    check(gemm_use(t->options.gemm, &p), &p);
    check(tokens_open(&t->tokens, t->options.data, VOCAB, settings.vocab_compact, &p), &p);
    check(tokens_suffice(&t->tokens, settings.seq, &p), &p);
    checkpoint_describe(&t->state, &settings, &t->tokens);
    check(checkpoint_probe(t->options.checkpoint, checkpoint_bytes(&t->state), &t->save_seconds, &p), &p);
    if (t->options.resume) {
        start_from_checkpoint(t);
        checkpoint_describe(&t->state, &settings, &t->tokens);
    } else {
        start_fresh(t);
    }
    t->pool = pool_new((int)t->options.threads);
    choose_kernels(t);
    t->model = model_new(t->parameters, t->kernels, t->pool, settings.softcap, settings.max_act, settings.loss_scale,
                         &t->timers);
    model_stage(t->model);
    time_forward(t);
    memset(&t->timers, 0, sizeof t->timers);
}

static void finish(struct Trainer *t) {
    model_free(t->model);
    t->kernels->close(t->kernels->self);
    pool_free(t->pool);
    parameters_free(t->parameters);
    tokens_close(&t->tokens);
}

/* The trainer's own number is only logged, and must not cost more than a tenth of the wall time. */
static int validation_windows(const struct Trainer *t) {
    int all = tokens_windows(&t->tokens, VALIDATION, settings.seq);
    double affordable = 0.1 * t->options.wall_time / t->forward_seconds;
    return affordable >= all ? all : affordable > 1 ? (int)affordable : 1;
}

static struct Cycle plan_cycle(struct Trainer *t, double begin) {
    struct Cycle cycle = {.settings = &settings,
                          .tokens = &t->tokens,
                          .parameters = t->parameters,
                          .model = t->model,
                          .pool = t->pool,
                          .timers = &t->timers,
                          .stop = &caught,
                          .log_every = t->options.log_every,
                          .begin = begin,
                          .wall_seconds = t->options.wall_time,
                          .most_steps = t->options.most_steps,
                          .validation_windows = validation_windows(t),
                          .forward_seconds = t->forward_seconds,
                          .save_seconds = t->save_seconds,
                          .state = &t->state};
    /* A step is a forward pass and about twice as much backward; an update moves some 20 bytes per parameter. */
    cycle.step_seconds = 3 * t->forward_seconds;
    cycle.update_seconds = 1e-8 * (double)parameter_count(settings.dim, settings.hidden, settings.layers);
    if (cycle.wall_seconds < cycle_least_seconds(&cycle)) {
        fail("a wall time of %g s is too short: a step, the validation and the checkpoint take about %.2g s\n"
             "hint: --wall-time, or ANE_WALL_TIME",
             cycle.wall_seconds, cycle_least_seconds(&cycle));
    }
    return cycle;
}

static void validate(struct Trainer *t, int windows) {
    struct Problem p;
    struct Timers before = t->timers;
    double begin = seconds();
    check(validation_loss(t->model, &t->tokens, VALIDATION, settings.seq, windows, &caught, &t->validation_loss, &p),
          &p);
    t->timers = before;
    t->timers.seconds[PHASE_VALIDATION] = seconds() - begin;
    stop_if_caught();
    if (!isfinite(t->validation_loss) || !isfinite(t->state.loss_average)) {
        fail("the training diverged: the loss is not finite");
    }
}

static int kernels_on_device(const struct Trainer *t) {
    if (t->kernels == &t->cpu) {
        return 0;
    }
    enum { MOST = 32 };
    struct KernelReport *reports = need(MOST, sizeof *reports);
    int count = device_reports(t->kernels, reports, MOST), there = 0;
    for (int i = 0; i < count && i < MOST; ++i) {
        there += reports[i].on_device;
    }
    free(reports);
    return there;
}

/* Share of the peak that the products in the kernels make: an estimate, which counts those done by the CPU instead as
   long as one is not. */
static double utilisation(const struct Trainer *t, const struct Cycle *cycle, double train_seconds) {
    if (strcmp(t->kernels->name, "ane") != 0 || kernels_on_device(t) == 0) {
        return 0;
    }
    double d = settings.dim, f = settings.hidden, s = settings.seq, layers = settings.layers;
    double forward = layers * (8 * d * d * s + 6 * d * f * s), attention_back = layers * 10 * d * s * s;
    return 100 * (2 * forward + attention_back) * (double)cycle->steps / train_seconds / (t->peak_tflops * 1e12);
}

static void report(const struct Trainer *t, const struct Cycle *cycle, double train_seconds, double wall_seconds,
                   double start_seconds) {
#define PHASE_TEXT(name, text) text,
    static const char *const phases[] = {PHASES(PHASE_TEXT)};
#undef PHASE_TEXT
    printf("---\n");
    printf("trainer_val_loss: %.6f\n", t->validation_loss);
    printf("trainer_val_tokens: %lld\n", (long long)cycle->validation_windows * settings.seq);
    printf("train_loss: %.6f\n", t->state.loss_average);
    printf("train_loss_last: %.6f\n", cycle->loss);
    printf("steps: %lld\n", (long long)cycle->steps);
    printf("updates: %lld\n", (long long)cycle->updates);
    printf("skipped_updates: %lld\n", (long long)cycle->skipped);
    printf("ms_per_step: %.3f\n", train_seconds / (double)cycle->steps * 1e3);
    printf("wall_time_s: %.3f\n", wall_seconds);
    printf("compile_time_s: %.3f\n", start_seconds);
    printf("ane_util_pct: %.2f\n", utilisation(t, cycle, train_seconds));
    printf("backend: %s\n", t->kernels->name);
    printf("kernels_on_device: %d\n", kernels_on_device(t));
    printf("threads: %d\n", pool_threads(t->pool));
    printf("gemm: %s\n", gemm_name());
    printf("params: %lld\n", (long long)parameter_count(settings.dim, settings.hidden, settings.layers));
    printf("total_updates: %lld\n", (long long)t->state.updates);
    printf("cycles: %lld\n", (long long)t->state.cycles);
    for (int i = 0; i < PHASE_COUNT; ++i) {
        printf("phase_%s_s: %.3f\n", phases[i], t->timers.seconds[i]);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fail("cannot write to standard output");
    }
}

int main(int argc, char **argv) {
    double started = seconds();
    static struct Trainer t;
    struct Problem p;
    t.options = read_options(argc, argv);
    catch_signals();
    start(&t);
    stop_if_caught();

    double begin = seconds();
    struct Cycle cycle = plan_cycle(&t, begin);
    check(cycle_run(&cycle, &p), &p);
    stop_if_caught();
    double train_seconds = seconds() - begin;
    t.state.cycles++;
    t.state.train_seconds += train_seconds;
    validate(&t, cycle.validation_windows);
    check(checkpoint_save(t.options.checkpoint, &t.state, t.parameters, &t.tokens, &p), &p);
    report(&t, &cycle, train_seconds, seconds() - begin, begin - started);
    finish(&t);
    return 0;
}
