/* Writes programs. Every parameter of an operation is a constant with a name, since the compiler refuses literals
 * there; no value has one of the names with which it is reported to return zeros (HARMFUL in operations.c).
 *
 * A product with packed weights: the activations [1, K, 1, S] become rows [1, 1, S, K], the weights a matrix
 * [1, 1, K, N], and the product's rows go back to channels, [1, N, 1, S]. */
#include "mil.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fp16.h"

enum { MOST_BLOBS = 4, MOST_CONSTANTS = 16, NAME = 40 };

struct Writer {
    char *text;
    size_t length, room;
    struct Blob *blobs;
    int blob_count;
    const struct Shape *shape;
    const struct Packing *packing;
    enum Dialect dialect;
    /* Of operations' parameters that are already written. */
    char constants[MOST_CONSTANTS][NAME];
    int constant_count;
};

struct Name {
    char text[NAME];
};

/* A rank of 4 is all that the hardware has. */
struct Dims {
    int of[4];
};

static struct Name joined(const char *base, const char *suffix) {
    struct Name name;
    if (snprintf(name.text, sizeof name.text, "%s_%s", base, suffix) >= NAME)
        fail("the name %s_%s is too long for a program", base, suffix);
    return name;
}

__attribute__((format(printf, 2, 0))) static void put_list(struct Writer *w, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0)
        fail("a program's text cannot be written");
    size_t end = w->length + (size_t)length + 1;
    if (end > w->room) {
        char *larger = need(2 * end, 1);
        if (w->length > 0)
            memcpy(larger, w->text, w->length);
        free(w->text);
        w->text = larger;
        w->room = 2 * end;
    }
    vsnprintf(w->text + w->length, (size_t)length + 1, format, arguments);
    w->length += (size_t)length;
}

__attribute__((format(printf, 2, 3))) static void put(struct Writer *w, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    put_list(w, format, arguments);
    va_end(arguments);
}

/* A scalar's type: in the older dialect a tensor without axes. */
static struct Name scalar(const struct Writer *w, const char *element) {
    struct Name name;
    snprintf(name.text, sizeof name.text, w->dialect == DIALECT_M1 ? "tensor<%s, []>" : "%s", element);
    return name;
}

static void put_constant(struct Writer *w, const char *type, const char *name, const char *value) {
    put(w, "        %s %s = const()[name = %s(\"%s\"), val = %s(%s)];\n", type, name, scalar(w, "string").text, name,
        type, value);
}

/* True when the constant must be written: the first time that it is asked for. */
static bool fresh(struct Writer *w, const char *name) {
    for (int i = 0; i < w->constant_count; i++)
        if (strcmp(w->constants[i], name) == 0)
            return false;
    if (w->constant_count == MOST_CONSTANTS)
        fail("a program has more than %d shared constants", MOST_CONSTANTS);
    snprintf(w->constants[w->constant_count++], NAME, "%s", name);
    return true;
}

static const char *shared(struct Writer *w, const char *element, const char *name, const char *value) {
    if (fresh(w, name))
        put_constant(w, scalar(w, element).text, name, value);
    return name;
}

static const char *shared_list(struct Writer *w, const char *type, const char *name, const char *value) {
    if (fresh(w, name))
        put_constant(w, type, name, value);
    return name;
}

static const char *flag(struct Writer *w, bool value) {
    return value ? shared(w, "bool", "yes", "true") : shared(w, "bool", "no", "false");
}

static struct Name list_of_four(struct Writer *w, const char *base, const char *suffix, struct Dims dims) {
    struct Name name = joined(base, suffix);
    char value[80];
    snprintf(value, sizeof value, "[%d, %d, %d, %d]", dims.of[0], dims.of[1], dims.of[2], dims.of[3]);
    put_constant(w, "tensor<int32, [4]>", name.text, value);
    return name;
}

static void put_type(struct Writer *w, struct Dims dims) {
    put(w, "tensor<fp16, [%d, %d, %d, %d]>", dims.of[0], dims.of[1], dims.of[2], dims.of[3]);
}

/* A statement; the format is of the operation with its arguments. */
__attribute__((format(printf, 4, 5))) static void let(struct Writer *w, const char *name, struct Dims dims,
                                                      const char *format, ...) {
    put(w, "        ");
    put_type(w, dims);
    put(w, " %s = ", name);
    va_list arguments;
    va_start(arguments, format);
    put_list(w, format, arguments);
    va_end(arguments);
    put(w, "[name = %s(\"%s\")];\n", scalar(w, "string").text, name);
}

static void let_reshape(struct Writer *w, const char *name, struct Dims dims, const char *from) {
    struct Name shape = list_of_four(w, name, "shape", dims);
    let(w, name, dims, "reshape(shape = %s, x = %s)", shape.text, from);
}

/* With the last two axes exchanged; dims are the result's. */
static void let_swap(struct Writer *w, const char *name, struct Dims dims, const char *from) {
    const char *swap = shared_list(w, "tensor<int32, [4]>", "swap", "[0, 1, 3, 2]");
    let(w, name, dims, "transpose(perm = %s, x = %s)", swap, from);
}

static void let_matmul(struct Writer *w, const char *name, struct Dims dims, bool transpose_x, bool transpose_y,
                       const char *left, const char *right) {
    const char *flag_x = flag(w, transpose_x), *flag_y = flag(w, transpose_y);
    let(w, name, dims, "matmul(transpose_x = %s, transpose_y = %s, x = %s, y = %s)", flag_x, flag_y, left, right);
}

/* add, mul or sub. */
static void let_pair(struct Writer *w, const char *name, struct Dims dims, const char *operation, const char *left,
                     const char *right) {
    let(w, name, dims, "%s(x = %s, y = %s)", operation, left, right);
}

/* The constant is rounded to a half here, so that the text says it exactly. */
static const char *number(struct Writer *w, const char *name, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.15g", (double)float_of(half_of((float)value)));
    return shared(w, "fp16", name, text);
}

static void let_blob(struct Writer *w, const char *name, struct Dims dims, const uint16_t *halves) {
    size_t count = (size_t)dims.of[0] * (size_t)dims.of[1] * (size_t)dims.of[2] * (size_t)dims.of[3];
    char *path = need(NAME + 16, 1);
    snprintf(path, NAME + 16, "weights/%s.bin", name);
    void *data = need(BLOB_DATA + sizeof *halves * count, 1);
    blob_write(data, halves, count);
    if (w->blob_count == MOST_BLOBS)
        fail("a program has more than %d blobs", MOST_BLOBS);
    w->blobs[w->blob_count++] = (struct Blob){path, data, BLOB_DATA + sizeof *halves * count};
    put(w, "        ");
    put_type(w, dims);
    put(w, " %s = const()[name = %s(\"%s\"), val = ", name, scalar(w, "string").text, name);
    put_type(w, dims);
    put(w, "(BLOBFILE(path = %s(\"@model_path/%s\"), offset = %s(%d)))];\n", scalar(w, "string").text, path,
        scalar(w, "uint64").text, BLOB_METADATA);
}

/* Building blocks. S: seq, D: dim, F: hidden, H: heads, d: D / H. */

static struct Dims channels(int rows, int columns) {
    return (struct Dims){{1, rows, 1, columns}};
}

static struct Dims matrix(int rows, int columns) {
    return (struct Dims){{1, 1, rows, columns}};
}

static struct Dims per_head(const struct Shape *shape, int rows, int columns) {
    return (struct Dims){{1, shape->heads, rows, columns}};
}

/* A piece of the input under its own name. */
static struct Area let_piece(struct Writer *w, const char *piece) {
    int index = 0;
    while (strcmp(w->packing->pieces[INPUT][index].name, piece) != 0)
        index++;
    struct Area area = packing_piece(w->packing, INPUT, index, w->shape);
    struct Name begin = list_of_four(w, piece, "begin", (struct Dims){{0, area.channel, 0, area.column}});
    struct Name size = list_of_four(w, piece, "size", channels(area.rows, area.columns));
    let(w, piece, channels(area.rows, area.columns), "slice_by_size(x = packed, begin = %s, size = %s)", begin.text,
        size.text);
    return area;
}

/* [1, rows, 1, S] becomes [1, 1, S, rows], called <from>_rows. */
static void let_rows(struct Writer *w, const char *from, int rows) {
    struct Name flat = joined(from, "flat");
    let_reshape(w, flat.text, matrix(rows, w->shape->seq), from);
    let_swap(w, joined(from, "rows").text, matrix(w->shape->seq, rows), flat.text);
}

static void let_activation(struct Writer *w, const char *piece) {
    struct Area area = let_piece(w, piece);
    let_rows(w, piece, area.rows);
}

/* [1, rows, 1, columns] becomes [1, 1, rows, columns], called <piece>_matrix. */
static void let_weight(struct Writer *w, const char *piece) {
    struct Area area = let_piece(w, piece);
    let_reshape(w, joined(piece, "matrix").text, matrix(area.rows, area.columns), piece);
}

/* Back from <name>_rows [1, 1, S, rows] to `name` [1, rows, 1, S]. */
static void let_channels(struct Writer *w, const char *name, int rows) {
    struct Name flat = joined(name, "back");
    let_swap(w, flat.text, matrix(rows, w->shape->seq), joined(name, "rows").text);
    let_reshape(w, name, channels(rows, w->shape->seq), flat.text);
}

/* `name` [1, rows, 1, S] and <name>_rows: the product of <activation>_rows with <weight>_matrix. */
static void let_product(struct Writer *w, const char *name, int rows, bool transposed, const char *activation,
                        const char *weight) {
    let_matmul(w, joined(name, "rows").text, matrix(w->shape->seq, rows), false, transposed,
               joined(activation, "rows").text, joined(weight, "matrix").text);
    let_channels(w, name, rows);
}

/* [1, D, 1, S] becomes [1, H, S, d], called <from>_heads. */
static void let_heads(struct Writer *w, const char *from) {
    int head = w->shape->dim / w->shape->heads;
    struct Name split = joined(from, "split");
    let_reshape(w, split.text, per_head(w->shape, head, w->shape->seq), from);
    let_swap(w, joined(from, "heads").text, per_head(w->shape, w->shape->seq, head), split.text);
}

/* Back from <name>_heads to `name`. */
static void let_merged(struct Writer *w, const char *name) {
    int head = w->shape->dim / w->shape->heads;
    struct Name split = joined(name, "merged");
    let_swap(w, split.text, per_head(w->shape, head, w->shape->seq), joined(name, "heads").text);
    let_reshape(w, name, channels(w->shape->dim, w->shape->seq), split.text);
}

static double score_scale(const struct Shape *shape) {
    return 1.0 / sqrt((double)shape->dim / shape->heads);
}

static void let_mask(struct Writer *w) {
    static const uint16_t LOWEST = 0xFBFF; /* -65504 */
    size_t seq = (size_t)w->shape->seq;
    uint16_t *mask = need(seq * seq, sizeof *mask);
    for (size_t query = 0; query < seq; query++)
        for (size_t key = query + 1; key < seq; key++)
            mask[query * seq + key] = LOWEST;
    let_blob(w, "mask", matrix(w->shape->seq, w->shape->seq), mask);
    free(mask);
}

/* p_heads [1, H, S, S] of q_heads and k_heads. The mask is added after scaling: it is the lowest half already. */
static void let_probabilities(struct Writer *w) {
    struct Dims square = per_head(w->shape, w->shape->seq, w->shape->seq);
    let_matmul(w, "scores", square, false, true, "q_heads", "k_heads");
    let_pair(w, "scaled", square, "mul", "scores", number(w, "score_scale", score_scale(w->shape)));
    let_mask(w);
    let_pair(w, "masked", square, "add", "scaled", "mask");
    let(w, "p_heads", square, "softmax(axis = %s, x = masked)", shared(w, "int32", "last_axis", "-1"));
}

/* The tables of rope as constants: both channels of a pair have the same angle, and a product with `turn` exchanges
   them and changes one sign, since some chips refuse to slice pairs. */
static void let_rope_tables(struct Writer *w) {
    int head = w->shape->dim / w->shape->heads, half = head / 2;
    size_t seq = (size_t)w->shape->seq, pairs = seq * (size_t)half;
    real *cosines = need(pairs, sizeof *cosines), *sines = need(pairs, sizeof *sines);
    uint16_t *table = need(2 * pairs, sizeof *table), *turn = need((size_t)head * (size_t)head, sizeof *turn);
    rope_tables(w->shape, cosines, sines);
    for (size_t i = 0; i < 2 * pairs; i++)
        table[i] = half_of((float)cosines[i / 2]);
    let_blob(w, "cosines", matrix(w->shape->seq, head), table);
    for (size_t i = 0; i < 2 * pairs; i++)
        table[i] = half_of((float)sines[i / 2]);
    let_blob(w, "sines", matrix(w->shape->seq, head), table);
    for (int i = 0; i < head; i += 2) {
        turn[(i + 1) * head + i] = half_of(-1.0f);
        turn[i * head + i + 1] = half_of(1.0f);
    }
    let_blob(w, "turn", matrix(head, head), turn);
    free(cosines);
    free(sines);
    free(table);
    free(turn);
}

/* `name` and <name>_heads from <name>_plain [1, D, 1, S]. */
static void let_turned(struct Writer *w, const char *name) {
    int head = w->shape->dim / w->shape->heads, rows = w->shape->heads * w->shape->seq;
    struct Dims heads = per_head(w->shape, w->shape->seq, head);
    struct Name plain = joined(name, "plain"), flat = joined(name, "pairs"), turned = joined(name, "exchanged");
    let_heads(w, plain.text);
    struct Name from = joined(plain.text, "heads");
    let_reshape(w, flat.text, matrix(rows, head), from.text);
    let_matmul(w, turned.text, matrix(rows, head), false, false, flat.text, "turn");
    struct Name back = joined(name, "turned");
    let_reshape(w, back.text, heads, turned.text);
    struct Name along = joined(name, "along"), across = joined(name, "across");
    let_pair(w, along.text, heads, "mul", from.text, "cosines");
    let_pair(w, across.text, heads, "mul", back.text, "sines");
    let_pair(w, joined(name, "heads").text, heads, "add", along.text, across.text);
    let_merged(w, name);
}

/* The programs. */

static void let_queries_or_keys(struct Writer *w, const char *name, const char *weight) {
    let_weight(w, weight);
    if (!w->shape->rope) {
        let_product(w, name, w->shape->dim, false, "xn", weight);
        let_heads(w, name);
        return;
    }
    let_product(w, joined(name, "plain").text, w->shape->dim, false, "xn", weight);
    let_turned(w, name);
}

static void attention_forward(struct Writer *w) {
    int dim = w->shape->dim, head = dim / w->shape->heads;
    let_activation(w, "xn");
    if (w->shape->rope)
        let_rope_tables(w);
    let_queries_or_keys(w, "q", "wq");
    let_queries_or_keys(w, "k", "wk");
    let_weight(w, "wv");
    let_product(w, "v", dim, false, "xn", "wv");
    let_heads(w, "v");
    let_probabilities(w);
    let_matmul(w, "a_heads", per_head(w->shape, w->shape->seq, head), false, false, "p_heads", "v_heads");
    let_merged(w, "a");
    let_rows(w, "a", dim);
    let_weight(w, "wo");
    let_product(w, "o", dim, false, "a", "wo");
}

static void ffn_forward(struct Writer *w) {
    int dim = w->shape->dim, hidden = w->shape->hidden;
    struct Dims wide = channels(hidden, w->shape->seq), narrow = channels(dim, w->shape->seq);
    let_activation(w, "x2n");
    let_piece(w, "x2");
    let_weight(w, "w1");
    let_product(w, "h1", hidden, false, "x2n", "w1");
    let_weight(w, "w3");
    let_product(w, "h3", hidden, false, "x2n", "w3");
    let(w, "gate", wide, "sigmoid(x = h1)");
    let_pair(w, "silu", wide, "mul", "h1", "gate");
    let_pair(w, "u", wide, "mul", "silu", "h3");
    let_rows(w, "u", hidden);
    let_weight(w, "w2");
    let_product(w, "f", dim, true, "u", "w2");
    let_pair(w, "f_scaled", narrow, "mul", "f", number(w, "alpha", 1.0 / sqrt(2.0 * w->shape->layers)));
    let_pair(w, "xout", narrow, "add", "x2", "f_scaled");
}

/* `name`: the sum of the products of each activation with its weight. */
static void sum_of_products(struct Writer *w, const char *name, int rows, int count, const char *const *activations,
                            const char *const *weights) {
    struct Name sum = {""};
    for (int i = 0; i < count; i++) {
        bool only = count == 1;
        struct Name part = joined("part", activations[i]);
        let_activation(w, activations[i]);
        let_weight(w, weights[i]);
        let_product(w, only ? name : part.text, rows, false, activations[i], weights[i]);
        if (i == 0) {
            sum = part;
            continue;
        }
        struct Name next = joined("sum", activations[i]);
        let_pair(w, i == count - 1 ? name : next.text, channels(rows, w->shape->seq), "add", sum.text, part.text);
        sum = next;
    }
}

static void attention_backward1(struct Writer *w) {
    int head = w->shape->dim / w->shape->heads, seq = w->shape->seq;
    for (const char *const *piece = (const char *const[]){"q", "k", "v", "da", NULL}; *piece != NULL; piece++) {
        let_piece(w, *piece);
        let_heads(w, *piece);
    }
    let_probabilities(w);
    let_reshape(w, "p", channels(w->shape->heads * seq, seq), "p_heads");
    let_matmul(w, "dv_heads", per_head(w->shape, seq, head), true, false, "p_heads", "da_heads");
    let_merged(w, "dv");
    let_matmul(w, "dp_heads", per_head(w->shape, seq, seq), false, true, "da_heads", "v_heads");
    let_reshape(w, "dp", channels(w->shape->heads * seq, seq), "dp_heads");
}

/* The gradients of the scores are scaled after the last products, where the small numbers have been added up. */
static void attention_backward2(struct Writer *w) {
    int head = w->shape->dim / w->shape->heads, seq = w->shape->seq;
    struct Dims square = per_head(w->shape, seq, seq), heads = per_head(w->shape, seq, head);
    for (const char *const *piece = (const char *const[]){"p", "dp", NULL}; *piece != NULL; piece++) {
        let_piece(w, *piece);
        let_reshape(w, joined(*piece, "heads").text, square, *piece);
    }
    for (const char *const *piece = (const char *const[]){"q", "k", NULL}; *piece != NULL; piece++) {
        let_piece(w, *piece);
        let_heads(w, *piece);
    }
    let_pair(w, "weighted", square, "mul", "p_heads", "dp_heads");
    const char *axes = shared_list(w, "tensor<int32, [1]>", "last_axes", "[-1]");
    const char *keep = flag(w, true);
    let(w, "total", per_head(w->shape, seq, 1), "reduce_sum(x = weighted, axes = %s, keep_dims = %s)", axes, keep);
    let_pair(w, "centred", square, "sub", "dp_heads", "total");
    let_pair(w, "ds", square, "mul", "p_heads", "centred");
    const char *scale = number(w, "score_scale", score_scale(w->shape));
    let_matmul(w, "dq_raw", heads, false, false, "ds", "k_heads");
    let_pair(w, "dq_heads", heads, "mul", "dq_raw", scale);
    let_merged(w, "dq");
    let_matmul(w, "dk_raw", heads, true, false, "ds", "q_heads");
    let_pair(w, "dk_heads", heads, "mul", "dk_raw", scale);
    let_merged(w, "dk");
}

static void put_body(struct Writer *w, enum ProgramId program) {
    const struct Shape *shape = w->shape;
    switch (program) {
    case SDPA_WO_FWD: attention_forward(w); break;
    case FFN_FUSED: ffn_forward(w); break;
    case FFN_BWD_W2T:
        sum_of_products(w, "du", shape->hidden, 1, (const char *const[]){"df"}, (const char *const[]){"w2"});
        break;
    case FFN_BWD_W13T:
        sum_of_products(w, "dx2n", shape->dim, 2, (const char *const[]){"dh1", "dh3"},
                        (const char *const[]){"w1", "w3"});
        break;
    case WOT_BWD:
        sum_of_products(w, "da", shape->dim, 1, (const char *const[]){"dout"}, (const char *const[]){"wo"});
        break;
    case SDPA_BWD1: attention_backward1(w); break;
    case SDPA_BWD2: attention_backward2(w); break;
    case QKV_BWD:
        sum_of_products(w, "dxn", shape->dim, 3, (const char *const[]){"dq", "dk", "dv"},
                        (const char *const[]){"wq", "wk", "wv"});
        break;
    case PROGRAMS: break;
    }
}

static void put_head(struct Writer *w) {
    bool old = w->dialect == DIALECT_M1;
    struct Name string = scalar(w, "string");
    struct Area input = packing_whole(w->packing, INPUT, w->shape);
    put(w, "program(%s)\n[buildInfo = dict<%s, %s>({{\"coremlc-component-MIL\", \"3510.2.1\"}, ", old ? "1.0" : "1.3",
        string.text, string.text);
    put(w, "{\"coremlc-version\", \"3505.4.1\"}, {\"coremltools-component-milinternal\", \"\"}, ");
    put(w, "{\"coremltools-version\", \"9.0\"}})]\n{\n    func main<%s>(", old ? "ios16" : "ios18");
    put_type(w, channels(input.rows, input.columns));
    put(w, " packed) {\n");
}

/* The pieces of the output, one below the other. */
static void put_end(struct Writer *w) {
    const struct Piece *pieces = w->packing->pieces[OUTPUT];
    int count = packing_count(w->packing, OUTPUT);
    const char *result = pieces[0].name;
    if (count > 1) {
        struct Area output = packing_whole(w->packing, OUTPUT, w->shape);
        char values[MOST_PIECES * (NAME + 2)] = "";
        for (int i = 0; i < count; i++) {
            size_t used = strlen(values);
            snprintf(values + used, sizeof values - used, "%s%s", i > 0 ? ", " : "", pieces[i].name);
        }
        result = "results";
        const char *axis = shared(w, "int32", "channel_axis", "1"), *apart = flag(w, false);
        let(w, result, channels(output.rows, output.columns), "concat(axis = %s, interleave = %s, values = (%s))", axis,
            apart, values);
    }
    put(w, "    } -> (%s);\n}\n", result);
}

struct Source mil_new(enum ProgramId program, const struct Shape *shape, enum Dialect dialect) {
    struct Writer writer = {.blobs = need(MOST_BLOBS, sizeof(struct Blob)), .shape = shape,
                            .packing = packing_of(program), .dialect = dialect};
    put_head(&writer);
    put_body(&writer, program);
    put_end(&writer);
    return (struct Source){writer.packing->name, writer.text, writer.length, writer.blobs, writer.blob_count};
}

void mil_free(struct Source *source) {
    for (int i = 0; i < source->blob_count; i++) {
        free((void *)source->blobs[i].path);
        free((void *)source->blobs[i].data);
    }
    free((void *)source->blobs);
    free((void *)source->text);
    *source = (struct Source){0};
}

/* Files of tensors. All numbers are little-endian, as all machines are that this runs on. */

static const uint32_t BLOB_VERSION = 2, BLOB_SENTINEL = 0xDEADBEEF, BLOB_FP16 = 1;

struct BlobMetadata {
    uint32_t sentinel, type;
    uint64_t bytes, offset; /* of the data, from the start of the file */
};

void blob_write(void *file, const uint16_t *halves, size_t count) {
    memset(file, 0, BLOB_DATA);
    const uint32_t head[] = {1, BLOB_VERSION};
    struct BlobMetadata metadata = {BLOB_SENTINEL, BLOB_FP16, sizeof *halves * count, BLOB_DATA};
    memcpy(file, head, sizeof head);
    memcpy((char *)file + BLOB_METADATA, &metadata, sizeof metadata);
    memcpy((char *)file + BLOB_DATA, halves, sizeof *halves * count);
}

const uint16_t *blob_halves(const struct Blob *file, uint64_t metadata, size_t count, struct Problem *why) {
    uint32_t head[2];
    struct BlobMetadata found;
    const char *path = file->path;
    if (file->bytes < BLOB_DATA)
        return problem(why, "%s is too short for a tensor", path), NULL;
    memcpy(head, file->data, sizeof head);
    if (head[0] < 1 || head[1] != BLOB_VERSION)
        return problem(why, "%s does not begin as a file of tensors", path), NULL;
    if (metadata % BLOB_METADATA != 0 || metadata < BLOB_METADATA || metadata > file->bytes - BLOB_METADATA)
        return problem(why, "%s has no tensor at offset %llu", path, (unsigned long long)metadata), NULL;
    memcpy(&found, (const char *)file->data + metadata, sizeof found);
    if (found.sentinel != BLOB_SENTINEL)
        return problem(why, "%s has no tensor at offset %llu", path, (unsigned long long)metadata), NULL;
    if (found.type != BLOB_FP16)
        return problem(why, "%s holds numbers of type %u, not halves", path, found.type), NULL;
    if (found.bytes % sizeof(uint16_t) != 0 || found.bytes / sizeof(uint16_t) != count)
        return problem(why, "%s holds %llu bytes, not %zu halves", path, (unsigned long long)found.bytes, count), NULL;
    if (found.offset % BLOB_METADATA != 0 || found.offset < metadata + BLOB_METADATA || found.offset > file->bytes ||
        found.bytes > file->bytes - found.offset)
        return problem(why, "%s ends before the data of its tensor", path), NULL;
    return (const uint16_t *)((const char *)file->data + found.offset);
}
