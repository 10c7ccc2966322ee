/* Damages checkpoints and token files at random, thousands of times in one process, and loads them; made for
 * sanitizers.
 *
 * fuzz FOLDER ROUNDS SEED. A checkpoint is accepted only unchanged, or where the damage was given right checksums and
 * nothing but harmless values; a token file exactly where it is one. Prints how many were accepted, and exits with 1
 * and a line for what should not have been. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"

enum { TOKEN_COUNT = 700, SEQ = 8, MOST_TOKENS = 2 * TOKEN_COUNT };

static struct Random dice;

static size_t below(size_t n) {
    return (size_t)random_below(&dice, n);
}

static void write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
        fail("cannot write %s", path);
    }
}

static char *joined(const char *folder, const char *name) {
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = need(bytes, 1);
    snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}

static uint16_t good_id(void) {
    return (uint16_t)(below(3) ? below(40) * 800 : below(VOCAB));
}

/* Token files. */

static bool is_one(const uint8_t *data, size_t bytes) {
    bool good = bytes > 0 && bytes % 2 == 0;
    for (size_t i = 0; good && i < bytes; i += 2) {
        good = (data[i] | data[i + 1] << 8) < VOCAB;
    }
    return good;
}

static void walk(const struct Tokens *tokens) {
    int32_t inputs[SEQ], targets[SEQ];
    struct Problem p;
    if (!tokens_suffice(tokens, SEQ, &p)) {
        return;
    }
    for (int split = TRAIN; split <= HOLDOUT; ++split) {
        int64_t begin, end;
        tokens_split(tokens, (enum Split)split, &begin, &end);
        for (int64_t start = begin; start + SEQ < end; ++start) {
            if (!tokens_window(tokens, start, SEQ, inputs, targets, &p)) {
                fail("window %lld: %s", (long long)start, p.text);
            }
            for (int i = 0; i < SEQ; ++i) {
                if (inputs[i] < 0 || inputs[i] >= tokens->classes || targets[i] < 0 || targets[i] >= tokens->classes) {
                    fail("window %lld has a class that is none", (long long)start);
                }
            }
        }
    }
}

static bool token_round(const char *path) {
    uint8_t data[2 * MOST_TOKENS + 1];
    size_t bytes = below(2) ? 2 * TOKEN_COUNT : below(sizeof data + 1);
    for (size_t i = 0; i + 1 < bytes; i += 2) {
        uint16_t id = good_id();
        memcpy(data + i, &id, 2);
    }
    if (bytes % 2) {
        data[bytes - 1] = (uint8_t)below(256);
    }
    for (size_t n = below(3); bytes > 0 && n > 0; --n) {
        data[below(bytes)] ^= (uint8_t)(1 << below(8));
    }
    write_file(path, data, bytes);
    struct Tokens tokens;
    struct Problem p;
    bool opened = tokens_open(&tokens, path, VOCAB, below(2), &p);
    if (opened != is_one(data, bytes)) {
        fail("a token file of %zu bytes was %s", bytes, opened ? "accepted" : p.text);
    }
    if (opened) {
        walk(&tokens);
        tokens_close(&tokens);
    }
    return opened;
}

/* Checkpoints. */

struct Subject {
    char *path;
    struct Settings settings;
    struct Tokens tokens;
    uint8_t *whole, *damaged;
    size_t bytes;
};

static void make(struct Subject *s, const char *folder) {
    uint16_t ids[TOKEN_COUNT];
    struct Problem p;
    char *tokens = joined(folder, "tokens.bin");
    for (size_t i = 0; i < TOKEN_COUNT; ++i) {
        ids[i] = good_id();
    }
    write_file(tokens, ids, sizeof ids);
    s->settings = (struct Settings){.dim = 2, .hidden = 3, .heads = 1, .kv_heads = 1, .seq = SEQ, .layers = 1,
                                    .architecture = "0123456789abcdef", .lion = true, .vocab_compact = true,
                                    .softcap = 30, .loss_scale = 1024};
    s->path = joined(folder, "model.ckpt");
    struct Checkpoint header = {.order = {{1, 2, 3, 4}}, .updates = 3};
    if (!tokens_open(&s->tokens, tokens, VOCAB, true, &p)) {
        fail("%s", p.text);
    }
    checkpoint_describe(&header, &s->settings, &s->tokens);
    struct Shape shape = checkpoint_shape(&header, &s->tokens);
    struct Parameters *parameters = parameters_new(&shape, LION);
    parameters_initialise(parameters, 1, s->tokens.token_of);
    if (!checkpoint_save(s->path, &header, parameters, &s->tokens, &p)) {
        fail("%s", p.text);
    }
    parameters_free(parameters);
    free(tokens);
    s->bytes = (size_t)checkpoint_bytes(&header);
    s->whole = need(s->bytes, 1);
    s->damaged = need(s->bytes + 16, 1);
    FILE *file = fopen(s->path, "rb");
    if (!file || fread(s->whole, 1, s->bytes, file) != s->bytes || fclose(file) != 0) {
        fail("cannot read %s", s->path);
    }
}

/* Where damage is likely to matter: half of it falls on the header. */
static size_t place(const struct Subject *s) {
    return below(2) ? below(sizeof(struct Checkpoint)) : below(s->bytes);
}

static void damage(struct Subject *s) {
    uint8_t *data = s->damaged;
    size_t at = place(s), left = s->bytes - at, run = 1 + below(left < 64 ? left : 64);
    static const uint8_t borders[] = {0, 1, 0x7F, 0x80, 0xFF};
    static const uint32_t words[] = {0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 0x7F800000, 4096};
    switch (below(5)) {
    case 0:
        data[at] ^= (uint8_t)(1 << below(8));
        break;
    case 1:
        data[at] = borders[below(sizeof borders)];
        break;
    case 2:
        at &= ~(size_t)3;
        memcpy(data + at, &words[below(sizeof words / sizeof *words)], 4);
        break;
    case 3:
        memset(data + at, (int)below(256), run);
        break;
    default:
        memmove(data + at, data + below(s->bytes - run + 1), run);
        break;
    }
}

static void seal(uint8_t *data, size_t bytes) {
    size_t header = offsetof(struct Checkpoint, header_checksum);
    uint32_t crc = checksum(0, data, header);
    memcpy(data + header, &crc, sizeof crc);
    crc = checksum(0, data, bytes - sizeof crc);
    memcpy(data + bytes - sizeof crc, &crc, sizeof crc);
}

static bool loads(const struct Subject *s) {
    struct CheckpointFile file;
    struct Problem p = {""};
    bool good = checkpoint_open(&file, s->path, &p);
    if (good) {
        /* evaluate goes by the header, train by its settings too. */
        good = checkpoint_matches_tokens(&file, &s->tokens, &p) &&
               (below(2) || checkpoint_matches_settings(&file, &s->settings, &p));
        struct Parameters *parameters =
            good ? checkpoint_parameters(&file, &s->tokens, (enum Moments)below(3), &p) : NULL;
        good = parameters != NULL;
        if (parameters) {
            parameters_free(parameters);
        }
        checkpoint_close(&file);
    }
    if (good != (p.text[0] == '\0')) {
        fail("a refusal without a sentence, or a sentence without a refusal: %s", p.text);
    }
    return good;
}

static bool checkpoint_round(struct Subject *s) {
    size_t bytes = s->bytes;
    memcpy(s->damaged, s->whole, bytes);
    for (size_t n = below(4); n > 0; --n) {
        damage(s);
    }
    bool sealed = below(2);
    if (sealed) {
        seal(s->damaged, bytes);
    } else if (below(8) == 0) {
        bytes = below(2) ? below(bytes) : bytes + 1 + below(16);
    }
    write_file(s->path, s->damaged, bytes);
    bool unchanged = bytes == s->bytes && memcmp(s->damaged, s->whole, bytes) == 0;
    bool accepted = loads(s);
    if (accepted && !unchanged && !sealed) {
        fail("a damaged checkpoint was accepted");
    }
    if (!accepted && unchanged) {
        fail("the unchanged checkpoint was refused");
    }
    return accepted;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fail("usage: fuzz FOLDER ROUNDS SEED");
    }
    long rounds = strtol(argv[2], NULL, 10), checkpoints = 0, token_files = 0;
    random_seed(&dice, (uint64_t)strtoll(argv[3], NULL, 10));
    char *tokens = joined(argv[1], "fuzzed.bin");
    struct Subject subject;
    make(&subject, argv[1]);
    for (long i = 0; i < rounds; ++i) {
        token_files += token_round(tokens);
        checkpoints += checkpoint_round(&subject);
    }
    printf("rounds %ld checkpoints %ld token files %ld\n", rounds, checkpoints, token_files);
    tokens_close(&subject.tokens);
    free(subject.whole);
    free(subject.damaged);
    free(subject.path);
    free(tokens);
    return 0;
}
