/* experiment_config.h at toy size, for two CPU cores: the one file to edit there. harness_ane.py reads it by a strict
 * parser and compiles the numbers, never this text: `#define NAME literal` and comments are all that can be here. A
 * comment begins with the range. Some pairs have rules beyond it, which the harness names. The vocabulary, 32000 ids, is
 * no setting. */

/* Architecture: a change of any of these resets the checkpoint, and training begins from scratch. */
#define DIM 128            // 32 to 4096, a multiple of 32: width of the model; the Neural Engine wants 128 or more
#define HIDDEN 384         // 64 to 16384, a multiple of 32: width of the feed-forward layers, more than DIM
#define HEADS 4            // 1 to 128: of attention; DIM / HEADS is a multiple of 32
#define N_KV_HEADS (HEADS) // 1 to 128: the same as HEADS, since grouped heads crash the Neural Engine's compiler
#define SEQ 128            // 32 to 1024, a power of two: tokens of a window
#define NLAYERS 2          // 1 to 64: layers; residuals are scaled by 1 / sqrt(2 NLAYERS)
#define USE_ROPE 0         // 0 or 1: rotary positions; without them only the causal mask tells order

/* Optimizer. From here on a change keeps the checkpoint, but USE_LION sets the moments to zero, and USE_VOCAB_COMPACT
 * the rows of ids that do not occur to their first values. */
#define USE_LION 1             // 0 or 1: AdamW or Lion
#define LEARNING_RATE 5e-4f    // 1e-08 to 1: at the peak of the schedule
#define ADAM_BETA1 .9f         // 0 to 0.9999: first moment; Lion's mix for the sign
#define ADAM_BETA2 .95f        // 0 to 0.99999: second moment; decay of Lion's momentum
#define ADAM_EPS 1e-8f         // 1e-12 to 0.01: AdamW only
#define WEIGHT_DECAY 0.1f      // 0 to 10: decoupled, of the matrices in the layers only
#define GRAD_CLIP_MAX 1.0f     // 0.0001 to 1e+06: largest norm of all gradients together
#define EMBED_LR_SCALE 1.0f    // 0 to 100: of the learning rate, for the embedding
#define MATRIX_LR_SCALE 0.1f   // 0 to 100: of the learning rate, for the matrices in the layers

/* Schedule, in updates over all cycles, which the checkpoint counts. */
#define TOTAL_STEPS 1000       // 1 to 10000000: end of the cosine, more than LR_WARMUP_STEPS
#define LR_WARMUP_STEPS 20     // 0 to 1000000: straight line from 0 to the peak
#define LR_MIN_FRAC 0.1f       // 0 to 1: of the peak, where the cosine ends
#define ACCUM_STEPS 12         // 1 to 1024: windows in an update
#define ACCUM_RAMP_STEPS 0     // 0 to 1000000: updates over which the accumulation grows from 1 to ACCUM_STEPS; 0: none

/* Loss. */
#define LOSS_SCALE 1024.0f     // 1 to 32768: of the gradients, against underflow in half precision
#define SOFTCAP 30.0f          // 1 to 1000: logits are SOFTCAP tanh(logits / SOFTCAP)
#define MAX_ACT 0.0f           // 0 to 60000: clamp of the residual stream after each layer; 0: none
#define USE_VOCAB_COMPACT 1    // 0 or 1: only ids that occur in the data are classes
