/* Every window has the same number of tokens, so the mean over tokens is the mean of the windows' means. */
#include "validation.h"

#include <stdlib.h>

bool validation_loss(struct Model *model, const struct Tokens *tokens, enum Split split, int seq, int windows,
                     const volatile sig_atomic_t *stop, double *loss, struct Problem *p) {
    int64_t begin, end;
    tokens_split(tokens, split, &begin, &end);
    int32_t *inputs = need((size_t)seq, sizeof *inputs), *targets = need((size_t)seq, sizeof *targets);
    double sum = 0;
    bool good = true;
    for (int i = 0; good && i < windows && !(stop && *stop); ++i) {
        good = tokens_window(tokens, begin + (int64_t)i * seq, seq, inputs, targets, p);
        if (good) {
            sum += model_loss(model, inputs, targets);
        }
    }
    free(inputs);
    free(targets);
    *loss = sum / windows;
    return good;
}
