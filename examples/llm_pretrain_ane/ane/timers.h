/* Where the time of a step goes, as the main thread sees it. Each moment belongs to one phase: the model counts all but
   io, which the kernels count, and update, which is the caller's. */
#ifndef TIMERS_H
#define TIMERS_H

#define PHASES(PHASE) \
    PHASE(KERNELS_FORWARD, "kernels_forward") \
    PHASE(KERNELS_BACKWARD, "kernels_backward") \
    PHASE(IO, "io") /* to and from surfaces; none of the cpu backend */ \
    PHASE(NORMS, "norms") \
    PHASE(ELEMENTWISE, "elementwise") /* residuals, SiLU's gradient */ \
    PHASE(CLASSIFIER, "classifier") /* embedding, logits, loss and their gradients */ \
    PHASE(WAIT, "wait") /* for weight gradients behind */ \
    PHASE(UPDATE, "update") \
    PHASE(STAGE, "stage") /* weights to surfaces */ \
    PHASE(VALIDATION, "validation") /* model_loss */

#define PHASE_NAME(name, text) PHASE_##name,
enum Phase { PHASES(PHASE_NAME) PHASE_COUNT };
#undef PHASE_NAME

struct Timers {
    double seconds[PHASE_COUNT];
};

#endif
