/* experiment_config.h as a struct. harness_ane.py checks that file and writes build/config.h, which train.c includes;
 * all else takes this struct or parts of it, so that only train.c is compiled anew for an experiment. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "base.h"

/* Of the tokenizer, and no setting: Llama 2. */
enum { VOCAB = 32000 };

struct Settings {
    /* Architecture: a change resets the checkpoint. */
    int dim, hidden, heads, kv_heads, seq, layers;
    bool rope;
    char architecture[17]; /* digest of the above, by the harness: 16 hexadecimal digits */
    /* Optimizer. */
    bool lion;
    double learning_rate, beta1, beta2, epsilon, weight_decay, grad_clip, embed_lr_scale, matrix_lr_scale;
    /* Schedule, in updates. */
    int total_steps, warmup_steps, accum_steps, accum_ramp_steps;
    double lr_min_frac;
    /* Loss. */
    double loss_scale, softcap, max_act;
    bool vocab_compact;
};

/* False for settings with which the trainer would compute nonsense or leave its memory. The harness is stricter: it
   knows what is sensible and what the hardware demands. */
bool settings_check(const struct Settings *settings, struct Problem *problem);
/* The same of the architecture alone, which may come from a checkpoint; bounds the memory that it takes. */
bool architecture_check(int dim, int hidden, int heads, int kv_heads, int seq, int layers, const char digest[16],
                        struct Problem *problem);
/* Numbers of a model with the whole vocabulary, from an architecture that was checked. */
int64_t parameter_count(int dim, int hidden, int layers);

#endif
