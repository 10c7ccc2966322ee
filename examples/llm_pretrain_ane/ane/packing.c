/* The table of what lies where, and the loops that bring numbers to and from surfaces. */
#include "packing.h"

#include "fp16.h"
#include "model.h"

/* Halves per job of the pool, and the tile of a transposition. */
enum { JOB = 32768, TILE = 32 };

#define PLAIN(name, rows, columns) {name, rows, columns, ACTIVATION, false}

static const struct Packing PACKINGS[PROGRAMS] = {
    [SDPA_WO_FWD] = {"sdpaWoFwd", true, true,
                     {{PLAIN("xn", WIDTH, TOKENS),
                       {"wq", WIDTH, WIDTH, WQ, true},
                       {"wk", WIDTH, WIDTH, WK, true},
                       {"wv", WIDTH, WIDTH, WV, true},
                       {"wo", WIDTH, WIDTH, WO, true}},
                      {PLAIN("o", WIDTH, TOKENS), PLAIN("a", WIDTH, TOKENS), PLAIN("q", WIDTH, TOKENS),
                       PLAIN("k", WIDTH, TOKENS), PLAIN("v", WIDTH, TOKENS)}}},
    [FFN_FUSED] = {"ffnFused", true, true,
                   {{PLAIN("x2n", WIDTH, TOKENS), PLAIN("x2", WIDTH, TOKENS),
                     {"w1", WIDTH, FFN_WIDTH, W1, true},
                     {"w3", WIDTH, FFN_WIDTH, W3, true},
                     {"w2", WIDTH, FFN_WIDTH, W2, false}},
                    {PLAIN("xout", WIDTH, TOKENS), PLAIN("h1", FFN_WIDTH, TOKENS), PLAIN("h3", FFN_WIDTH, TOKENS),
                     PLAIN("u", FFN_WIDTH, TOKENS)}}},
    [FFN_BWD_W2T] = {"ffnBwdW2t", true, true,
                     {{PLAIN("df", WIDTH, TOKENS), {"w2", WIDTH, FFN_WIDTH, W2, false}},
                      {PLAIN("du", FFN_WIDTH, TOKENS)}}},
    [FFN_BWD_W13T] = {"ffnBwdW13t", true, true,
                      {{PLAIN("dh1", FFN_WIDTH, TOKENS), PLAIN("dh3", FFN_WIDTH, TOKENS),
                        {"w1", FFN_WIDTH, WIDTH, W1, false},
                        {"w3", FFN_WIDTH, WIDTH, W3, false}},
                       {PLAIN("dx2n", WIDTH, TOKENS)}}},
    [WOT_BWD] = {"wotBwd", true, true,
                 {{PLAIN("dout", WIDTH, TOKENS), {"wo", WIDTH, WIDTH, WO, false}},
                  {PLAIN("da", WIDTH, TOKENS)}}},
    [SDPA_BWD1] = {"sdpaBwd1", false, false,
                   {{PLAIN("q", WIDTH, TOKENS), PLAIN("k", WIDTH, TOKENS), PLAIN("v", WIDTH, TOKENS),
                     PLAIN("da", WIDTH, TOKENS)},
                    {PLAIN("dv", WIDTH, TOKENS), PLAIN("p", HEAD_TOKENS, TOKENS), PLAIN("dp", HEAD_TOKENS, TOKENS)}}},
    [SDPA_BWD2] = {"sdpaBwd2", false, false,
                   {{PLAIN("p", HEAD_TOKENS, TOKENS), PLAIN("dp", HEAD_TOKENS, TOKENS), PLAIN("q", WIDTH, TOKENS),
                     PLAIN("k", WIDTH, TOKENS)},
                    {PLAIN("dq", WIDTH, TOKENS), PLAIN("dk", WIDTH, TOKENS)}}},
    [QKV_BWD] = {"qkvBwd", true, true,
                 {{PLAIN("dq", WIDTH, TOKENS), PLAIN("dk", WIDTH, TOKENS), PLAIN("dv", WIDTH, TOKENS),
                   {"wq", WIDTH, WIDTH, WQ, false},
                   {"wk", WIDTH, WIDTH, WK, false},
                   {"wv", WIDTH, WIDTH, WV, false}},
                  {PLAIN("dxn", WIDTH, TOKENS)}}},
};

const struct Packing *packing_of(enum ProgramId program) {
    return &PACKINGS[program];
}

int packing_count(const struct Packing *packing, enum Side side) {
    int count = 0;
    while (packing->pieces[side][count].name != NULL)
        count++;
    return count;
}

static int extent(enum Extent of, const struct Shape *shape) {
    switch (of) {
    case WIDTH: return shape->dim;
    case FFN_WIDTH: return shape->hidden;
    case TOKENS: return shape->seq;
    case HEAD_TOKENS: return shape->heads * shape->seq;
    case NO_EXTENT: break;
    }
    return 0;
}

struct Area packing_piece(const struct Packing *packing, enum Side side, int piece, const struct Shape *shape) {
    bool columns = side == INPUT && packing->along_columns;
    struct Area area = {0, 0, 0, 0};
    for (int i = 0; i <= piece; i++) {
        if (columns)
            area.column += area.columns;
        else
            area.channel += area.rows;
        area.rows = extent(packing->pieces[side][i].rows, shape);
        area.columns = extent(packing->pieces[side][i].columns, shape);
    }
    return area;
}

struct Area packing_whole(const struct Packing *packing, enum Side side, const struct Shape *shape) {
    struct Area last = packing_piece(packing, side, packing_count(packing, side) - 1, shape);
    return (struct Area){0, 0, last.channel + last.rows, last.column + last.columns};
}

size_t area_bytes(struct Area whole) {
    return sizeof(uint16_t) * (size_t)whole.rows * (size_t)whole.columns;
}

void halves_of_reals(uint16_t *halves, const real *values, size_t count) {
#ifdef ANE_DOUBLE
    for (size_t i = 0; i < count; i++)
        halves[i] = half_of((float)values[i]);
#else
    halves_of(halves, values, count);
#endif
}

void reals_of_halves(real *values, const uint16_t *halves, size_t count) {
#ifdef ANE_DOUBLE
    for (size_t i = 0; i < count; i++)
        values[i] = float_of(halves[i]);
#else
    floats_of(values, halves, count);
#endif
}

struct Transfer {
    uint16_t *surface;
    const uint16_t *from;
    const real *values;
    real *into;
    size_t stride, columns;
    int rows, rows_of_part;
};

static void write_rows(void *context, int part) {
    const struct Transfer *t = context;
    size_t begin = (size_t)part * (size_t)t->rows_of_part, end = begin + (size_t)t->rows_of_part;
    for (size_t row = begin; row < end && row < (size_t)t->rows; row++)
        halves_of_reals(t->surface + row * t->stride, t->values + row * t->columns, t->columns);
}

/* Of TILE rows at a time, so that what is read of a row of the weights is used as a whole. */
static void write_transposed(void *context, int part) {
    const struct Transfer *t = context;
    real tile[TILE][TILE];
    size_t begin = (size_t)part * TILE, rows = (size_t)t->rows;
    size_t high = rows - begin < TILE ? rows - begin : TILE;
    for (size_t column = 0; column < t->columns; column += TILE) {
        size_t wide = t->columns - column < TILE ? t->columns - column : TILE;
        for (size_t j = 0; j < wide; j++)
            for (size_t i = 0; i < high; i++)
                tile[i][j] = t->values[(column + j) * rows + begin + i];
        for (size_t i = 0; i < high; i++)
            halves_of_reals(t->surface + (begin + i) * t->stride + column, tile[i], wide);
    }
}

static void read_rows(void *context, int part) {
    const struct Transfer *t = context;
    size_t begin = (size_t)part * (size_t)t->rows_of_part, end = begin + (size_t)t->rows_of_part;
    for (size_t row = begin; row < end && row < (size_t)t->rows; row++)
        reals_of_halves(t->into + row * t->columns, t->from + row * t->stride, t->columns);
}

static int ceiling(int count, int per) {
    return (count + per - 1) / per;
}

static int rows_per_job(struct Area area) {
    int rows = JOB / area.columns;
    return rows > 0 ? rows : 1;
}

static size_t area_start(struct Area area, int stride) {
    return (size_t)area.channel * (size_t)stride + (size_t)area.column;
}

void area_write(struct Pool *pool, uint16_t *surface, int stride, struct Area area, bool transposed,
                const real *values) {
    struct Transfer transfer = {.surface = surface + area_start(area, stride), .values = values,
                                .stride = (size_t)stride, .columns = (size_t)area.columns, .rows = area.rows,
                                .rows_of_part = transposed ? TILE : rows_per_job(area)};
    pool_run(pool, ceiling(area.rows, transfer.rows_of_part), transposed ? write_transposed : write_rows, &transfer);
}

void area_read(struct Pool *pool, const uint16_t *surface, int stride, struct Area area, real *values) {
    struct Transfer transfer = {.from = surface + area_start(area, stride), .into = values, .stride = (size_t)stride,
                                .columns = (size_t)area.columns, .rows = area.rows, .rows_of_part = rows_per_job(area)};
    pool_run(pool, ceiling(area.rows, transfer.rows_of_part), read_rows, &transfer);
}
