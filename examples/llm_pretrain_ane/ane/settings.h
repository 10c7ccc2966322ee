/* experiment_config.h as a struct. harness_ane.py checks that file and writes build/config.h, which train.c includes; all
 * else takes this struct or parts of it, so that only train.c is compiled anew for an experiment. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>

/* Of the tokenizer, and no setting: Llama 2. */
enum { VOCAB = 32000 };

struct Settings {
    /* Architecture: a change resets the checkpoint. */
    int dim, hidden, heads, kv_heads, seq, layers;
    bool rope;
    char architecture[17]; /* digest of the above, by the harness */
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

#endif
