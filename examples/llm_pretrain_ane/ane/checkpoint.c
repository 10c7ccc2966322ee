/* The header of checkpoints, and reading them; checkpoint_save.c writes them. */
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_format.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are written as they are in memory");
_Static_assert(sizeof(struct Checkpoint) == 208, "the header has no gaps");

void checkpoint_describe(struct Checkpoint *header, const struct Settings *settings, const struct Tokens *tokens) {
    memcpy(header->architecture, settings->architecture, sizeof header->architecture);
    header->dim = settings->dim;
    header->hidden = settings->hidden;
    header->heads = settings->heads;
    header->kv_heads = settings->kv_heads;
    header->seq = settings->seq;
    header->layers = settings->layers;
    header->vocab = VOCAB;
    header->rope = settings->rope;
    header->compact = settings->vocab_compact;
    header->lion = settings->lion;
    header->softcap = settings->softcap;
    header->max_act = settings->max_act;
    header->loss_scale = settings->loss_scale;
    header->token_count = tokens->count;
    header->token_checksum = tokens->checksum;
}

int64_t checkpoint_bytes(const struct Checkpoint *header) {
    int64_t numbers = parameter_count(header->dim, header->hidden, header->layers);
    return (int64_t)sizeof *header + numbers * (int64_t)sizeof(float) * checkpoint_sections(header->lion) +
           (int64_t)sizeof(uint32_t);
}

struct Shape checkpoint_shape(const struct Checkpoint *header, const struct Tokens *tokens) {
    return (struct Shape){.dim = header->dim,
                          .hidden = header->hidden,
                          .heads = header->heads,
                          .seq = header->seq,
                          .layers = header->layers,
                          .classes = tokens->classes,
                          .rope = header->rope};
}

static bool counters_check(const struct Checkpoint *header) {
    const int64_t most = INT64_C(1) << 53;
    const int64_t counters[] = {header->updates, header->micro_steps, header->skipped, header->cycles,
                                header->moment_updates, header->token_count};
    for (size_t i = 0; i < sizeof counters / sizeof *counters; ++i) {
        if (counters[i] < 0 || counters[i] > most) {
            return false;
        }
    }
    const uint64_t *state = header->order.state;
    return header->moment_updates <= header->updates && (state[0] | state[1] | state[2] | state[3]) != 0 &&
           isfinite(header->loss_average) && isfinite(header->train_seconds) && header->train_seconds >= 0;
}

static bool numbers_check(const struct Checkpoint *header) {
    return isfinite(header->softcap) && header->softcap > 0 && isfinite(header->max_act) && header->max_act >= 0 &&
           isfinite(header->loss_scale) && header->loss_scale > 0;
}

static bool flag(int32_t value) {
    return value == 0 || value == 1;
}

static bool header_check(const struct Checkpoint *header, const char *path, struct Problem *p) {
    if (memcmp(header->magic, checkpoint_magic, sizeof header->magic) != 0) {
        return problem(p, "%s is no checkpoint of this trainer", path);
    }
    if (header->version != CHECKPOINT_VERSION) {
        return problem(p, "the checkpoint %s has version %u of the format, and this trainer reads version %d", path,
                       header->version, CHECKPOINT_VERSION);
    }
    if (checksum(0, header, offsetof(struct Checkpoint, header_checksum)) != header->header_checksum) {
        return problem(p, "the checkpoint %s is damaged: the checksum of its header is wrong", path);
    }
    struct Problem why;
    if (!architecture_check(header->dim, header->hidden, header->heads, header->kv_heads, header->seq, header->layers,
                            header->architecture, &why)) {
        return problem(p, "the checkpoint %s cannot be used: %s", path, why.text);
    }
    if (header->vocab != VOCAB || header->tensors != header->layers * PER_LAYER + 2 || !flag(header->rope) ||
        !flag(header->compact) || !flag(header->lion) || !numbers_check(header) || !counters_check(header)) {
        return problem(p, "the checkpoint %s cannot be used: its header holds values that no training has", path);
    }
    return true;
}

static bool plain_file(int descriptor, const char *path, int64_t *bytes, struct Problem *p) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        return problem(p, "cannot read the checkpoint %s: %s", path, strerror(errno));
    }
    *bytes = status.st_size;
    return S_ISREG(status.st_mode) || problem(p, "the checkpoint %s is not a plain file", path);
}

static bool open_stream(struct CheckpointFile *file, int64_t *bytes, struct Problem *p) {
    /* Without O_NONBLOCK a pipe would be waited for. */
    int descriptor = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) {
        return errno == ELOOP ? problem(p, "the checkpoint %s is a symbolic link, which is not followed", file->path)
                              : problem(p, "cannot open the checkpoint %s: %s", file->path, strerror(errno));
    }
    if (!plain_file(descriptor, file->path, bytes, p)) {
        close(descriptor);
        return false;
    }
    file->stream = fdopen(descriptor, "rb");
    if (file->stream == NULL) {
        close(descriptor);
        return problem(p, "cannot read the checkpoint %s: %s", file->path, strerror(errno));
    }
    return true;
}

bool checkpoint_open(struct CheckpointFile *file, const char *path, struct Problem *p) {
    memset(file, 0, sizeof *file);
    file->path = path;
    int64_t bytes = 0;
    if (!open_stream(file, &bytes, p)) {
        return false;
    }
    bool good = fread(&file->header, sizeof file->header, 1, file->stream) == 1 ||
                problem(p, "the checkpoint %s is shorter than a header", path);
    good = good && header_check(&file->header, path, p);
    if (good && bytes != checkpoint_bytes(&file->header)) {
        good = problem(p, "the checkpoint %s is damaged: it has %lld bytes, and its header says %lld", path,
                       (long long)bytes, (long long)checkpoint_bytes(&file->header));
    }
    if (!good) {
        checkpoint_close(file);
    }
    return good;
}

void checkpoint_close(struct CheckpointFile *file) {
    if (file->stream) {
        fclose(file->stream);
        file->stream = NULL;
    }
}

bool checkpoint_matches_settings(const struct CheckpointFile *file, const struct Settings *settings,
                                 struct Problem *p) {
    const struct Checkpoint *h = &file->header;
    bool same = memcmp(h->architecture, settings->architecture, sizeof h->architecture) == 0 &&
                h->dim == settings->dim && h->hidden == settings->hidden && h->heads == settings->heads &&
                h->kv_heads == settings->kv_heads && h->seq == settings->seq && h->layers == settings->layers &&
                h->rope == settings->rope;
    return same || problem(p,
                           "the checkpoint %s is of another architecture: dim %d, hidden %d, heads %d, seq %d, "
                           "layers %d and rope %d",
                           file->path, h->dim, h->hidden, h->heads, h->seq, h->layers, h->rope);
}

bool checkpoint_matches_tokens(const struct CheckpointFile *file, const struct Tokens *tokens, struct Problem *p) {
    return (file->header.token_count == tokens->count && file->header.token_checksum == tokens->checksum &&
            file->header.vocab == tokens->vocab) ||
           problem(p, "the checkpoint %s is from another token file or tokenizer", file->path);
}

/* Goes through the body; what is wrong is collected, since the checksum at the end says it best. */
struct Reader {
    FILE *stream;
    uint32_t crc;
    bool ended, nonsense;
    float buffer[4096];
};

static bool finite_all(const float *values, size_t count) {
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        infinite |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !infinite;
}

static bool negative_any(const float *values, size_t count) {
    bool negative = false;
    for (size_t i = 0; i < count; ++i) {
        negative |= values[i] < 0;
    }
    return negative;
}

/* The next numbers; `to` may be NULL. */
static void read_numbers(struct Reader *reader, real *to, size_t count, bool squares) {
    const size_t most = sizeof reader->buffer / sizeof *reader->buffer;
    for (size_t done = 0; done < count && !reader->ended;) {
        size_t part = count - done < most ? count - done : most;
        if (fread(reader->buffer, sizeof(float), part, reader->stream) != part) {
            reader->ended = true;
            return;
        }
        reader->crc = checksum(reader->crc, reader->buffer, part * sizeof(float));
        reader->nonsense |= !finite_all(reader->buffer, part) || (squares && negative_any(reader->buffer, part));
        for (size_t i = 0; to && i < part; ++i) {
            to[done + i] = (real)reader->buffer[i];
        }
        done += part;
    }
}

static void read_section(struct Reader *reader, const struct Parameters *parameters, const struct Tokens *tokens,
                         int section, bool keep) {
    for (int t = 0; t < parameters->count - 1; ++t) {
        const struct Tensor *tensor = &parameters->tensors[t];
        read_numbers(reader, keep ? checkpoint_section(tensor, section) : NULL,
                     (size_t)tensor->rows * (size_t)tensor->columns, section == 2);
    }
    const struct Tensor *table = embedding(parameters);
    real *rows = keep ? checkpoint_section(table, section) : NULL;
    for (int id = 0; id < tokens->vocab && !reader->ended; ++id) {
        int32_t class = tokens->class_of[id];
        read_numbers(reader, rows && class >= 0 ? rows + (size_t)class * (size_t)table->columns : NULL,
                     (size_t)table->columns, section == 2);
    }
}

static bool read_body(struct Reader *reader, const struct Parameters *parameters, const struct CheckpointFile *file,
                      const struct Tokens *tokens, bool same_moments, struct Problem *p) {
    reader->crc = checksum(0, &file->header, sizeof file->header);
    for (int section = 0; section < checkpoint_sections(file->header.lion); ++section) {
        read_section(reader, parameters, tokens, section, section == 0 || same_moments);
    }
    uint32_t crc = 0;
    if (reader->ended || fread(&crc, sizeof crc, 1, reader->stream) != 1) {
        return problem(p, "the checkpoint %s became shorter while it was read", file->path);
    }
    if (crc != reader->crc) {
        return problem(p, "the checkpoint %s is damaged: its checksum is wrong", file->path);
    }
    return !reader->nonsense ||
           problem(p, "the checkpoint %s holds weights or moments that are not finite", file->path);
}

struct Parameters *checkpoint_parameters(struct CheckpointFile *file, const struct Tokens *tokens, enum Moments moments,
                                         struct Problem *p) {
    struct Shape shape = checkpoint_shape(&file->header, tokens);
    struct Parameters *parameters = parameters_new(&shape, moments);
    struct Reader *reader = need(1, sizeof *reader);
    reader->stream = file->stream;
    bool same_moments = moments == (file->header.lion ? LION : ADAMW);
    bool good = read_body(reader, parameters, file, tokens, same_moments, p);
    free(reader);
    if (!good) {
        parameters_free(parameters);
        return NULL;
    }
    return parameters;
}
