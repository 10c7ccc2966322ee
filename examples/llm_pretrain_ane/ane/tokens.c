/* Nothing of a token file is used as an index before the whole file was seen to hold ids of the vocabulary only. */
#include "tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are read as they are");

enum { IDS = 65536, EVALUATED = 25600, LONGEST = 1024, BLOCK = 1 << 24 };

/* macOS refuses to read more than 2 GB at once, hence blocks. */
static bool read_bytes(int file, char *bytes, int64_t count, const char *path, struct Problem *p) {
    for (int64_t done = 0; done < count;) {
        int64_t left = count - done;
        ssize_t got = read(file, bytes + done, left < BLOCK ? (size_t)left : BLOCK);
        if (got < 0) {
            return problem(p, "cannot read the token file %s: %s", path, strerror(errno));
        }
        if (got == 0) {
            return problem(p, "the token file %s became shorter while it was read", path);
        }
        done += got;
    }
    char more;
    return read(file, &more, 1) == 0 || problem(p, "the token file %s became longer while it was read", path);
}

static bool read_ids(struct Tokens *tokens, int file, const char *path, struct Problem *p) {
    struct stat status;
    if (fstat(file, &status) != 0) {
        return problem(p, "cannot read the token file %s: %s", path, strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return problem(p, "the token file %s is not a plain file", path);
    }
    if (status.st_size == 0) {
        return problem(p, "the token file %s is empty", path);
    }
    if (status.st_size % 2 != 0) {
        return problem(p, "the token file %s has an odd number of bytes, %lld, but tokens have two bytes each", path,
                       (long long)status.st_size);
    }
    tokens->count = status.st_size / 2;
    tokens->ids = need((size_t)tokens->count, sizeof *tokens->ids);
    return read_bytes(file, (char *)tokens->ids, status.st_size, path, p);
}

static void number_classes(struct Tokens *tokens, const bool *occurs, bool compact) {
    tokens->class_of = need((size_t)tokens->vocab, sizeof *tokens->class_of);
    tokens->token_of = need((size_t)tokens->vocab, sizeof *tokens->token_of);
    for (int id = 0; id < tokens->vocab; ++id) {
        tokens->class_of[id] = -1;
        if (occurs[id] || !compact) {
            tokens->token_of[tokens->classes] = (uint16_t)id;
            tokens->class_of[id] = tokens->classes++;
        }
    }
}

static bool check_ids(struct Tokens *tokens, const char *path, bool compact, struct Problem *p) {
    bool *occurs = need(IDS, sizeof *occurs);
    for (int64_t i = 0; i < tokens->count; ++i) {
        occurs[tokens->ids[i]] = true;
    }
    bool good = true;
    for (int id = tokens->vocab; id < IDS && good; ++id) {
        if (occurs[id]) {
            good = problem(p, "the token file %s holds the id %d, but the vocabulary ends at %d", path, id,
                           tokens->vocab - 1);
        }
    }
    if (good) {
        number_classes(tokens, occurs, compact);
    }
    free(occurs);
    return good;
}

bool tokens_open(struct Tokens *tokens, const char *path, int vocab, bool compact, struct Problem *p) {
    memset(tokens, 0, sizeof *tokens);
    tokens->vocab = vocab;
    /* Without O_NONBLOCK a pipe would be waited for. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        return problem(p, "cannot open the token file %s: %s", path, strerror(errno));
    }
    bool good = read_ids(tokens, file, path, p);
    close(file);
    if (good) {
        good = check_ids(tokens, path, compact, p);
    }
    if (!good) {
        tokens_close(tokens);
        return false;
    }
    tokens->checksum = checksum(0, tokens->ids, (size_t)tokens->count * 2);
    return true;
}

void tokens_close(struct Tokens *tokens) {
    free(tokens->ids);
    free(tokens->class_of);
    free(tokens->token_of);
    memset(tokens, 0, sizeof *tokens);
}

void tokens_split(const struct Tokens *tokens, enum Split split, int64_t *begin, int64_t *end) {
    int64_t validation = tokens->count / 10 * 9 + tokens->count % 10 * 9 / 10;
    int64_t holdout = tokens->count / 20 * 19 + tokens->count % 20 * 19 / 20;
    *begin = split == TRAIN ? 0 : split == VALIDATION ? validation : holdout;
    *end = split == TRAIN ? validation : split == VALIDATION ? holdout : tokens->count;
}

bool tokens_suffice(const struct Tokens *tokens, int seq, struct Problem *p) {
    static const char *const names[] = {"training", "validation", "holdout"};
    for (int split = TRAIN; split <= HOLDOUT; ++split) {
        int64_t begin, end;
        tokens_split(tokens, (enum Split)split, &begin, &end);
        if (end - begin < (int64_t)seq + 1) {
            return problem(p, "the token file is too short: its %s split holds %lld tokens, and a window needs %d",
                           names[split], (long long)(end - begin), seq + 1);
        }
    }
    return true;
}

bool tokens_window(const struct Tokens *tokens, int64_t start, int seq, int32_t *inputs, int32_t *targets,
                   struct Problem *p) {
    for (int i = 0; i <= seq; ++i) {
        int32_t class = tokens->class_of[tokens->ids[start + i]];
        if (class < 0) {
            return problem(p, "token %lld of the token file has no class", (long long)(start + i));
        }
        if (i < seq) {
            inputs[i] = class;
        }
        if (i > 0) {
            targets[i - 1] = class;
        }
    }
    return true;
}

int tokens_windows(const struct Tokens *tokens, enum Split split, int seq) {
    int64_t begin, end;
    tokens_split(tokens, split, &begin, &end);
    int64_t predicted = end - begin - 1 < EVALUATED ? end - begin - 1 : EVALUATED;
    if (predicted > LONGEST) {
        predicted -= predicted % LONGEST;
    }
    return predicted < seq ? 0 : (int)(predicted / seq);
}
