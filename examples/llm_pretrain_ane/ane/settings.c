/* The last look at settings and at a checkpoint's architecture before memory is sized by them. */
#include "settings.h"

#include <math.h>
#include <string.h>

/* A billion parameters are 16 GB with gradients and moments; as many activations are 8 GB. */
enum { MOST_DIM = 4096, MOST_HIDDEN = 16384, MOST_SEQ = 1024, MOST_LAYERS = 64 };
#define MOST_PARAMETERS (INT64_C(1) << 30)
#define MOST_ACTIVATIONS (INT64_C(1) << 31)

static bool within(const char *name, int value, int most, struct Problem *p) {
    return (value >= 1 && value <= most) || problem(p, "%s is %d, but 1 to %d are possible", name, value, most);
}

int64_t parameter_count(int dim, int hidden, int layers) {
    int64_t d = dim, layer = 4 * d * d + 3 * d * hidden + 2 * d;
    return layers * layer + d + VOCAB * d;
}

/* What a model keeps per layer and token; the classifier's rows are done in chunks. */
static int64_t activation_count(int dim, int hidden, int seq, int layers) {
    return (int64_t)layers * seq * (13 * (int64_t)dim + 3 * (int64_t)hidden);
}

bool architecture_check(int dim, int hidden, int heads, int kv_heads, int seq, int layers, const char digest[16],
                        struct Problem *p) {
    if (!within("dim", dim, MOST_DIM, p) || !within("hidden", hidden, MOST_HIDDEN, p) ||
        !within("heads", heads, dim, p) || !within("seq", seq, MOST_SEQ, p) ||
        !within("layers", layers, MOST_LAYERS, p)) {
        return false;
    }
    if (kv_heads != heads) {
        return problem(p, "kv_heads is %d and heads is %d, but they must be equal", kv_heads, heads);
    }
    if (dim % heads != 0 || dim / heads % 2 != 0) {
        return problem(p, "dim is %d and heads is %d, but every head needs the same even number of channels", dim,
                       heads);
    }
    if (parameter_count(dim, hidden, layers) > MOST_PARAMETERS ||
        activation_count(dim, hidden, seq, layers) > MOST_ACTIVATIONS) {
        return problem(p, "a model with dim %d, hidden %d, seq %d and %d layers is too large", dim, hidden, seq,
                       layers);
    }
    for (int i = 0; i < 16; ++i) {
        if (digest[i] == '\0' || strchr("0123456789abcdef", digest[i]) == NULL) {
            return problem(p, "the digest of the architecture is not 16 hexadecimal digits");
        }
    }
    return true;
}

struct Range {
    const char *name;
    double value, least, most;
};

static bool ranges_check(const struct Range *ranges, int count, struct Problem *p) {
    for (int i = 0; i < count; ++i) {
        const struct Range *range = &ranges[i];
        if (!(range->value >= range->least && range->value <= range->most)) {
            return problem(p, "%s is %g, but %g to %g are possible", range->name, range->value, range->least,
                           range->most);
        }
    }
    return true;
}

bool settings_check(const struct Settings *settings, struct Problem *p) {
    if (!architecture_check(settings->dim, settings->hidden, settings->heads, settings->kv_heads, settings->seq,
                            settings->layers, settings->architecture, p)) {
        return false;
    }
    const double tiny = 1e-30, huge = 1e30;
    const struct Range ranges[] = {
        {"learning_rate", settings->learning_rate, 0, huge},
        {"beta1", settings->beta1, 0, 0.999999},
        {"beta2", settings->beta2, 0, 0.999999},
        {"epsilon", settings->epsilon, 0, huge},
        {"weight_decay", settings->weight_decay, 0, huge},
        {"grad_clip", settings->grad_clip, tiny, huge},
        {"embed_lr_scale", settings->embed_lr_scale, 0, huge},
        {"matrix_lr_scale", settings->matrix_lr_scale, 0, huge},
        {"warmup_steps", settings->warmup_steps, 0, settings->total_steps - 1.0},
        {"accum_steps", settings->accum_steps, 1, 1e6},
        {"accum_ramp_steps", settings->accum_ramp_steps, 0, 1e9},
        {"lr_min_frac", settings->lr_min_frac, 0, 1},
        {"loss_scale", settings->loss_scale, tiny, huge},
        {"softcap", settings->softcap, tiny, huge},
        {"max_act", settings->max_act, 0, huge},
    };
    return ranges_check(ranges, (int)(sizeof ranges / sizeof *ranges), p);
}
