/* Checkpoints: a header, all parameters with their moments, and two checksums.
 *
 * A file is either the old one or the new one, whatever happens while it is written; and nothing of it is used before
 * it was found whole. The embedding is in the file for the whole vocabulary, so that compaction may be switched at
 * will: rows of tokens that do not occur are as they were initialised, without moments. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "base.h"
#include "model.h"
#include "settings.h"
#include "tokens.h"

/* The header as it is in the file: little endian, without gaps. Then float32: the weights of all tensors in the order
   of struct Parameters, then m of all, then v of all unless for Lion; then the CRC-32 of all bytes before it. */
struct Checkpoint {
    /* Set by checkpoint_save. */
    char magic[8];
    uint32_t version;
    int32_t tensors;
    char architecture[16];
    int32_t dim, hidden, heads, kv_heads, seq, layers, vocab, rope, compact, lion;
    double softcap, max_act, loss_scale;
    /* Over all cycles. */
    int64_t updates, micro_steps, skipped, cycles;
    int64_t moment_updates; /* those since the moments were zero */
    uint64_t init_seed;
    struct Random order; /* which windows come next */
    double train_seconds, loss_average;
    /* Of the token file. */
    int64_t token_count;
    uint32_t token_checksum;
    uint32_t header_checksum; /* of all above; set by checkpoint_save */
};

/* All but what is counted over the cycles, which stays as it is. */
void checkpoint_describe(struct Checkpoint *header, const struct Settings *settings, const struct Tokens *tokens);
/* Bytes of the file with this header. */
int64_t checkpoint_bytes(const struct Checkpoint *header);

/* Whether a checkpoint can be written there, found out by writing some of its bytes to the disk; and estimates the
   seconds that all of them take. */
bool checkpoint_probe(const char *path, int64_t bytes, double *seconds_needed, struct Problem *problem);
/* Writes path.part in the same folder, syncs and renames it; one writer at a time. False: the file that was there still
   is, and path.part is not, unless the sentence is about the folder. */
bool checkpoint_save(const char *path, const struct Checkpoint *header, const struct Parameters *parameters,
                     const struct Tokens *tokens, struct Problem *problem);

struct CheckpointFile {
    const char *path; /* kept for sentences */
    void *stream;
    struct Checkpoint header;
};
/* Reads the header; false unless it is sound by itself and the file has the size that follows from it. */
bool checkpoint_open(struct CheckpointFile *file, const char *path, struct Problem *problem);
void checkpoint_close(struct CheckpointFile *file);
/* False unless it was made by a model of this architecture. */
bool checkpoint_matches_settings(const struct CheckpointFile *file, const struct Settings *settings,
                                 struct Problem *problem);
/* False unless it was made with this token file. */
bool checkpoint_matches_tokens(const struct CheckpointFile *file, const struct Tokens *tokens, struct Problem *problem);
/* New parameters with the weights of the file, and its moments where they are of the wanted kind; once per file, whose
   tokens must match. NULL when the file is damaged. */
struct Parameters *checkpoint_parameters(struct CheckpointFile *file, const struct Tokens *tokens, enum Moments moments,
                                         struct Problem *problem);
/* What the header says of the model, with the classes of the tokens. */
struct Shape checkpoint_shape(const struct Checkpoint *header, const struct Tokens *tokens);

#endif
