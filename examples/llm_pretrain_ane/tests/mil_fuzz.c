/* Texts and files that are changed at random go into the simulator:  mil_fuzz ROUNDS SEED
 *
 * Each must be refused with a sentence or run; the sanitizers that this is built with see to the rest. Prints how many
 * were accepted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mil.h"
#include "program.h"

enum { ROOM = 1 << 17, MOST_CHANGES = 3 };

static const struct Shape SHAPE = {128, 160, 4, 32, 2, 64, true};

static const char *const HOSTILE[] = {
    "-1", "0", "1", "3", "2147483647", "-2147483648", "99999999999999999999", "1e999", "0x", "nan", "-", "[", "]",
    "(", ")", "{", "}", ";", ",", "=", "->", "\"", "\"\"", "tensor", "tensor<fp16, []>",
    "tensor<fp16, [1, 65536, 1, 65536]>",
    "tensor<fp16, [1, 1, 1, 1, 1]>", "tensor<int32, [5]>", "tile", "const", "true", "packed", "q", "\\", "\x01", "\xff",
    "@model_path/../../x", "fp32", "uint64(18446744073709551615)", "uint64(0)", "uint64(128)", "results", "softmax",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

struct Span {
    size_t begin, end;
};

static bool word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* The token at or behind a place. */
static struct Span token(const char *text, size_t length, size_t at) {
    while (at > 0 && at < length && word(text[at]) && word(text[at - 1]))
        at--;
    struct Span span = {at, at < length ? at + 1 : at};
    while (span.end < length && word(text[span.begin]) && word(text[span.end]))
        span.end++;
    return span;
}

static struct Span line(const char *text, size_t length, size_t at) {
    struct Span span = {at, at};
    while (span.begin > 0 && text[span.begin - 1] != '\n')
        span.begin--;
    while (span.end < length && text[span.end] != '\n')
        span.end++;
    span.end += span.end < length;
    return span;
}

static size_t replace(char *text, size_t length, struct Span span, const char *with, size_t bytes) {
    if (length - (span.end - span.begin) + bytes > ROOM)
        return length;
    char *copy = need(bytes + 1, 1); /* may be of the text itself */
    memcpy(copy, with, bytes);
    memmove(text + span.begin + bytes, text + span.end, length - span.end);
    memcpy(text + span.begin, copy, bytes);
    free(copy);
    return length - (span.end - span.begin) + bytes;
}

static size_t change(struct Random *random, char *text, size_t length) {
    if (length == 0)
        return 0;
    size_t at = random_below(random, length);
    struct Span here = token(text, length, at), other = token(text, length, random_below(random, length));
    struct Span row = line(text, length, at), gap = {here.begin, here.begin};
    const char *hostile = HOSTILE[random_below(random, sizeof HOSTILE / sizeof *HOSTILE)];
    switch (random_below(random, 10)) {
    case 0: return replace(text, length, here, "", 0);
    case 1: return replace(text, length, gap, text + here.begin, here.end - here.begin);
    case 2:
    case 3: return replace(text, length, here, text + other.begin, other.end - other.begin);
    case 4:
    case 5: return replace(text, length, here, hostile, strlen(hostile));
    case 6: text[at] = (char)random_next(random); return length;
    case 7: return replace(text, length, row, "", 0);
    case 8: return replace(text, length, (struct Span){row.begin, row.begin}, text + row.begin, row.end - row.begin);
    default: return random_below(random, 8) == 0 ? at : length;
    }
}

/* A byte of the files' heads, or their length. */
static void change_blob(struct Random *random, struct Blob *blob) {
    unsigned char *bytes = (unsigned char *)blob->data;
    if (random_below(random, 3) > 0)
        bytes[random_below(random, BLOB_DATA)] ^= (unsigned char)(1u << random_below(random, 8));
    else
        blob->bytes = random_below(random, blob->bytes + 1);
}

static bool try_source(struct Executor *e, const struct Source *source, void *input, void *output) {
    struct Problem why = {""};
    void *program = e->load(e->self, source, &why);
    if (program == NULL) {
        if (why.text[0] == 0)
            fail("a text is refused without a sentence");
        return false;
    }
    void *binding = e->bind(e->self, program, input, output, &why);
    if (binding != NULL && !e->run(e->self, binding, &why))
        fail("%s", why.text);
    if (binding != NULL)
        e->unbind(e->self, binding);
    e->unload(e->self, program);
    return true;
}

int main(int argc, char **argv) {
    if (argc != 3)
        fail("usage: mil_fuzz ROUNDS SEED");
    struct Random random;
    struct Pool *pool = pool_new(1);
    struct Problem why;
    long rounds = atol(argv[1]), accepted = 0;
    random_seed(&random, (uint64_t)atol(argv[2]));
    for (long i = 0; i < rounds; i++) {
        /* A new one each time: an executor loads 100 programs. */
        struct Executor e = sim_executor(pool);
        void *input = e.surface(e.self, 1 << 20, &why), *output = e.surface(e.self, 1 << 20, &why);
        struct Source source = mil_new((enum ProgramId)(i % PROGRAMS), &SHAPE, (enum Dialect)(i / PROGRAMS % 2));
        /* Of exactly the text's size, so that a byte read too far is seen. */
        char *text = need(ROOM, 1);
        memcpy(text, source.text, source.length);
        size_t length = source.length;
        for (uint64_t changes = random_below(&random, MOST_CHANGES + 1); changes > 0; changes--)
            length = change(&random, text, length);
        char *exact = need(length, 1);
        memcpy(exact, text, length);
        free(text);
        free((void *)source.text);
        source.text = exact;
        source.length = length;
        for (int blob = 0; blob < source.blob_count; blob++)
            if (random_below(&random, 4) == 0)
                change_blob(&random, (struct Blob *)&source.blobs[blob]);
        accepted += try_source(&e, &source, input, output);
        mil_free(&source);
        e.release(e.self, input);
        e.release(e.self, output);
        e.close(e.self);
    }
    pool_free(pool);
    printf("%ld of %ld accepted\n", accepted, rounds);
    return 0;
}
