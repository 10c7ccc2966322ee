/* The token file: little-endian uint16 ids without a header, checked as a whole before use; its splits and windows. */
#ifndef TOKENS_H
#define TOKENS_H

#include "base.h"

enum Split { TRAIN, VALIDATION, HOLDOUT }; /* the first 90 %, then 5 %, then 5 % */

struct Tokens {
    uint16_t *ids; /* [count]: a copy, since a mapped file that becomes shorter ends the program */
    int64_t count;
    uint32_t checksum;  /* of the file's bytes */
    int classes;        /* different ids that occur, or vocab without compaction */
    uint16_t *token_of; /* [classes]: ascending ids */
    int32_t *class_of;  /* [vocab]: -1 where the id does not occur */
    int vocab;
};

/* False for a file that is missing, not plain, of odd size, empty, changes its size while it is read, or has an id that
   is not below vocab. */
bool tokens_open(struct Tokens *tokens, const char *path, int vocab, bool compact, struct Problem *problem);
void tokens_close(struct Tokens *tokens);
/* First token of a split, and the one after its last. */
void tokens_split(const struct Tokens *tokens, enum Split split, int64_t *begin, int64_t *end);
/* False unless every split holds a window of seq tokens and the token after it. */
bool tokens_suffice(const struct Tokens *tokens, int seq, struct Problem *problem);
/* seq inputs from `start` and their successors as targets, as classes. False for a token that has no class, of which
   tokens_open leaves none: a class is an index, and -1 would be one. */
bool tokens_window(const struct Tokens *tokens, int64_t start, int seq, int32_t *inputs, int32_t *targets,
                   struct Problem *problem);
/* Windows of `split` that are evaluated; window i starts at begin + i * seq. They predict its first 25,600 tokens after
   the first one, or those that a shorter split has, rounded down to a multiple of 1,024: the same ones for every seq,
   each of which divides 1,024. Only a split with fewer than 1,024 is filled by whole windows. */
int tokens_windows(const struct Tokens *tokens, enum Split split, int seq);

#endif
