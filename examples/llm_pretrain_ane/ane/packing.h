/* What lies where in the one input and the one output surface of each program: the only table of it, for the text of
 * the programs, for staging and for reading results.
 *
 * A surface holds halves, [channels, columns] row-major: a tensor [1, channels, 1, columns] of the program. Pieces lie
 * side by side along the columns (inputs with weights) or along the channels (all others). */
#ifndef PACKING_H
#define PACKING_H

#include "base.h"
#include "kernels.h"
#include "pool.h"

enum ProgramId {
    SDPA_WO_FWD, /* attention with its projections */
    FFN_FUSED,
    FFN_BWD_W2T,
    FFN_BWD_W13T,
    WOT_BWD,
    SDPA_BWD1, /* probabilities again, their gradients, dv */
    SDPA_BWD2, /* dq, dk */
    QKV_BWD,
    PROGRAMS
};

enum Side { INPUT, OUTPUT, SIDES };
enum { MOST_PIECES = 6 };
enum Extent { NO_EXTENT, WIDTH, FFN_WIDTH, TOKENS, HEAD_TOKENS }; /* dim, hidden, seq, heads * seq */
enum { ACTIVATION = -1 };

struct Piece {
    const char *name; /* also of its value in the text */
    enum Extent rows, columns;
    int weight;      /* WQ .. W3 of model.h, or ACTIVATION */
    bool transposed; /* the piece is the transpose of the weight as the model has it */
};

struct Packing {
    const char *name; /* of the program */
    bool along_columns;
    bool weights; /* an input surface per layer; without, the layers share one */
    struct Piece pieces[SIDES][MOST_PIECES + 1]; /* one without a name ends the list */
};

struct Area {
    int channel, column, rows, columns;
};

const struct Packing *packing_of(enum ProgramId program);
int packing_count(const struct Packing *packing, enum Side side);
/* Where the piece is; and the whole surface. */
struct Area packing_piece(const struct Packing *packing, enum Side side, int piece, const struct Shape *shape);
struct Area packing_whole(const struct Packing *packing, enum Side side, const struct Shape *shape);
size_t area_bytes(struct Area whole);

/* Between [rows, columns] numbers and a piece of a surface that is `stride` halves wide. `transposed`: the numbers are
   [columns, rows]. Values beyond the halves become infinite; NaN stays NaN. */
void area_write(struct Pool *pool, uint16_t *surface, int stride, struct Area area, bool transposed,
                const real *values);
void area_read(struct Pool *pool, const uint16_t *surface, int stride, struct Area area, real *values);

/* Halves from and to the number type. */
void halves_of_reals(uint16_t *halves, const real *values, size_t count);
void reals_of_halves(real *values, const uint16_t *halves, size_t count);

#endif
