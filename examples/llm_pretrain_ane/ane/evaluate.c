/* The judge: the mean loss of a checkpoint over fixed windows, by the cpu backend. The checkpoint is data, checked as a
 * whole; settings of the experiment are not compiled in and not read. A line `val_loss:` is printed only when all went
 * well. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arguments.h"
#include "checkpoint.h"
#include "gemm.h"
#include "validation.h"

struct Options {
    const char *checkpoint, *data, *split, *gemm;
    int64_t threads;
};

static struct Options read_options(int argc, char **argv) {
    struct Options o = {.split = "validation", .gemm = "auto", .threads = default_threads()};
    const struct Argument arguments[] = {
        {"--checkpoint", TEXT, "FILE", &o.checkpoint, 0, 0, "what train wrote", 1},
        {"--data", TEXT, "FILE", &o.data, 0, 0, "the token file that it was trained with", 1},
        {"--split", CHOICE, "validation|holdout", &o.split, 0, 0, "validation where it is not given", 0},
        {"--threads", WHOLE, "N", &o.threads, 1, MOST_THREADS, "one per processor where it is not given", 0},
        {"--gemm", CHOICE, "auto|own|openblas|accelerate", &o.gemm, 0, 0, "matrix products", 0},
    };
    arguments_read(argc, argv, "evaluate", arguments, sizeof arguments / sizeof *arguments);
    return o;
}

static void check(bool good, const struct Problem *problem) {
    if (!good) {
        fail("%s", problem->text);
    }
}

int main(int argc, char **argv) {
    struct Options options = read_options(argc, argv);
    struct Problem p;
    struct CheckpointFile file;
    struct Tokens tokens;
    check(gemm_use(options.gemm, &p), &p);
    check(checkpoint_open(&file, options.checkpoint, &p), &p);
    const struct Checkpoint *header = &file.header;
    check(tokens_open(&tokens, options.data, VOCAB, header->compact, &p), &p);
    check(checkpoint_matches_tokens(&file, &tokens, &p) && tokens_suffice(&tokens, header->seq, &p), &p);
    struct Parameters *parameters = checkpoint_parameters(&file, &tokens, NO_TRAINING, &p);
    check(parameters != NULL, &p);
    checkpoint_close(&file);

    struct Pool *pool = pool_new((int)options.threads);
    struct Kernels kernels = cpu_kernels(&parameters->shape, pool);
    struct Model *model =
        model_new(parameters, &kernels, pool, header->softcap, header->max_act, header->loss_scale, NULL);
    model_stage(model);
    enum Split split = strcmp(options.split, "holdout") == 0 ? HOLDOUT : VALIDATION;
    int windows = tokens_windows(&tokens, split, header->seq);
    double loss = NAN;
    check(validation_loss(model, &tokens, split, header->seq, windows, NULL, &loss, &p), &p);
    if (!isfinite(loss)) {
        fail("the loss of the checkpoint %s is not finite", options.checkpoint);
    }
    printf("val_loss: %.6f\n", loss);
    printf("val_tokens: %lld\n", (long long)windows * header->seq);
    printf("parameters: %lld\n", (long long)parameter_count(header->dim, header->hidden, header->layers));
    printf("updates: %lld\n", (long long)header->updates);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fail("cannot write to standard output");
    }
    model_free(model);
    kernels.close(kernels.self);
    pool_free(pool);
    parameters_free(parameters);
    tokens_close(&tokens);
    return 0;
}
