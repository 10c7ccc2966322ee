/* What reading and writing of checkpoints share. */
#ifndef CHECKPOINT_FORMAT_H
#define CHECKPOINT_FORMAT_H

#include "checkpoint.h"

enum { CHECKPOINT_VERSION = 1 };
static const char checkpoint_magic[8] = {'A', 'R', 'K', 'A', 'N', 'E', '0', '1'};

/* Weights, m, and v unless for Lion. */
static inline int checkpoint_sections(bool lion) {
    return lion ? 2 : 3;
}

/* Which of a tensor's arrays a section holds; NULL where none is kept. */
static inline real *checkpoint_section(const struct Tensor *tensor, int section) {
    return section == 0 ? tensor->weight : section == 1 ? tensor->m : tensor->v;
}

#endif
