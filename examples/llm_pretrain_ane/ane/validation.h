/* The mean loss over the windows of a split, for the trainer's own number and for the judge's. */
#ifndef VALIDATION_H
#define VALIDATION_H

#include <signal.h>

#include "model.h"
#include "tokens.h"

/* Nats per token, over the first `windows` of those that tokens_windows counts. Ends early, with a result that means
   nothing, when *stop becomes other than 0; stop may be NULL. False for tokens that have no class. */
bool validation_loss(struct Model *model, const struct Tokens *tokens, enum Split split, int seq, int windows,
                     const volatile sig_atomic_t *stop, double *loss, struct Problem *problem);

#endif
