/* C = alpha op(A) op(B) + beta C by own loops, cut as in BLIS (Van Zee and van de Geijn, 2015): a block of A and one of
 * B are copied into panels, which fit the caches and are read in order, and a small tile of C is summed in registers.
 *
 * Each element is the same sum in the same order for any number of threads, whichever part it is in. */
#include "gemm.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

/* The tile in registers is ROWS x (VECTORS vectors). */
#if defined(__AVX512F__)
#define BYTES 64
enum { ROWS = 8, VECTORS = 2 };
#elif defined(__AVX2__) && defined(__FMA__)
#define BYTES 32
enum { ROWS = 6, VECTORS = 2 };
#elif defined(__ARM_NEON)
#define BYTES 16
enum { ROWS = 8, VECTORS = 2 };
#else
#define BYTES 16
enum { ROWS = 4, VECTORS = 2 };
#endif
typedef real Vector __attribute__((vector_size(BYTES), may_alias));
/* The same in memory of any alignment. */
typedef real Loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
enum { LANES = BYTES / sizeof(real), COLUMNS = VECTORS * LANES };

/* Rows of a square that is transposed in registers, and its shuffles. */
enum { SIDE = 16 / sizeof(real), STRIP = 64 / sizeof(real) };
typedef real Row __attribute__((vector_size(16)));
typedef real LooseRow __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(ANE_DOUBLE)
typedef int64_t Places __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#else
typedef int32_t Places __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#endif
#ifdef ANE_DOUBLE
#define LOW(a, b) SHUFFLE(a, b, 0, 2)
#define HIGH(a, b) SHUFFLE(a, b, 1, 3)
#else
#define LOW(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define HIGH(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#endif

/* A panel of B, DEPTH x COLUMNS, is about as large as the first cache, a block of A, BLOCK_ROWS x DEPTH, and one of B,
   DEPTH x BLOCK_COLUMNS, are small enough for the next two. The best of some tried on Zen 4. */
enum { DEPTH = 1536 / sizeof(real), BLOCK_ROWS = 24 * ROWS, BLOCK_COLUMNS = 4096 / sizeof(real) };

struct Scratch {
    real a[BLOCK_ROWS * DEPTH], b[DEPTH * BLOCK_COLUMNS];
};

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_make_key(void) {
    if (pthread_key_create(&scratch_key, free) != 0)
        fail("the system has no room for memory of each thread");
}

/* Of this thread, for as long as it lives. */
static struct Scratch *scratch_of_thread(void) {
    static _Thread_local struct Scratch *scratch;
    if (scratch == NULL) {
        pthread_once(&scratch_once, scratch_make_key);
        scratch = need(1, sizeof *scratch);
        if (pthread_setspecific(scratch_key, scratch) != 0)
            fail("the system has no room for memory of each thread");
    }
    return scratch;
}

static int least(int a, int b) {
    return a < b ? a : b;
}

/* panel[p][i] = source[p][i], zero beyond `valid`. */
static inline void pack_rows(real *panel, const real *source, int stride, int depth, int valid, int width) {
    for (int p = 0; p < depth; p++, panel += width, source += stride) {
        for (int i = 0; i < valid; i++)
            panel[i] = source[i];
        for (int i = valid; i < width; i++)
            panel[i] = 0;
    }
}

/* SIDE rows of `to`, `width` apart, become the columns of `from`: each round interleaves the two halves of the rows, as
   one shuffles a pack of cards. */
static inline void transpose_square(real *to, const real *from, int stride, int width) {
    Row rows[SIDE], dealt[SIDE];
    for (int i = 0; i < SIDE; i++)
        rows[i] = *(const LooseRow *)(from + (size_t)i * (size_t)stride);
    for (int round = 1; round < SIDE; round *= 2) {
        for (int i = 0; i < SIDE / 2; i++) {
            dealt[2 * i] = LOW(rows[i], rows[i + SIDE / 2]);
            dealt[2 * i + 1] = HIGH(rows[i], rows[i + SIDE / 2]);
        }
        for (int i = 0; i < SIDE; i++)
            rows[i] = dealt[i];
    }
    for (int i = 0; i < SIDE; i++)
        *(LooseRow *)(to + i * width) = rows[i];
}

/* panel[p][i] = source[i][p], zero beyond `valid`; by strips of one cache line, since the rows of the source often lie
   where they would push each other out of the cache. */
static inline void pack_columns(real *panel, const real *source, int stride, int depth, int valid, int width) {
    int whole = valid / SIDE * SIDE;
    for (int p = 0; p < depth; p += STRIP) {
        int end = least(p + STRIP, depth), squares = p + (end - p) / SIDE * SIDE;
        for (int i = 0; i < whole; i += SIDE) {
            const real *from = source + (size_t)i * (size_t)stride;
            for (int q = p; q < squares; q += SIDE)
                transpose_square(panel + q * width + i, from + q, stride, width);
            for (int q = squares; q < end; q++)
                for (int r = 0; r < SIDE; r++)
                    panel[q * width + i + r] = from[(size_t)r * (size_t)stride + (size_t)q];
        }
    }
    for (int p = 0; p < depth; p++) {
        for (int i = whole; i < valid; i++)
            panel[p * width + i] = source[(size_t)i * (size_t)stride + (size_t)p];
        for (int i = valid; i < width; i++)
            panel[p * width + i] = 0;
    }
}

/* Panels of `width` along the first index of `count`; the other is `depth`. along: the first index is contiguous. */
static inline void pack(real *panels, const real *source, int stride, bool along, int count, int depth, int width) {
    for (int i = 0; i < count; i += width, panels += depth * width) {
        int valid = least(width, count - i);
        if (along && valid == width)
            pack_rows(panels, source + i, stride, depth, width, width);
        else if (along)
            pack_rows(panels, source + i, stride, depth, valid, width);
        else if (valid == width)
            pack_columns(panels, source + (size_t)i * (size_t)stride, stride, depth, width, width);
        else
            pack_columns(panels, source + (size_t)i * (size_t)stride, stride, depth, valid, width);
    }
}

/* One tile: C = alpha A B + beta C from a panel of each. */
static void tile(int depth, const real *restrict a, const real *restrict b, real alpha, real beta, real *c, int ldc) {
    for (int i = 0; i < ROWS; i++) /* the rows of C are far apart, so no processor guesses them */
        for (int j = 0; j < VECTORS; j++)
            __builtin_prefetch(c + (size_t)i * (size_t)ldc + j * LANES, 1);
    Vector sum[ROWS][VECTORS] = {{{0}}};
    for (int p = 0; p < depth; p++, a += ROWS, b += COLUMNS)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < VECTORS; j++)
                sum[i][j] += a[i] * ((const Vector *)b)[j];
    for (int i = 0; i < ROWS; i++, c += ldc)
        for (int j = 0; j < VECTORS; j++) {
            Loose *to = (Loose *)(c + j * LANES);
            *to = beta == 0 ? alpha * sum[i][j] : alpha * sum[i][j] + beta * *to;
        }
}

/* A tile that reaches beyond C is worked on in a copy, so that each element is computed the same way. */
static void tile_at_edge(int depth, const real *a, const real *b, real alpha, real beta, real *c, int ldc, int rows,
                         int columns) {
    real copy[ROWS * COLUMNS] = {0};
    for (int i = 0; beta != 0 && i < rows; i++)
        memcpy(copy + i * COLUMNS, c + (size_t)i * (size_t)ldc, (size_t)columns * sizeof *c);
    tile(depth, a, b, alpha, beta, copy, COLUMNS);
    for (int i = 0; i < rows; i++)
        memcpy(c + (size_t)i * (size_t)ldc, copy + i * COLUMNS, (size_t)columns * sizeof *c);
}

/* C [m, n] from one block of A and one of B. */
static void block(const struct Scratch *scratch, int m, int n, int depth, real alpha, real beta, real *c, int ldc) {
    for (int j = 0; j < n; j += COLUMNS)
        for (int i = 0; i < m; i += ROWS) {
            const real *a = scratch->a + i * depth, *b = scratch->b + j * depth;
            real *to = c + (size_t)i * (size_t)ldc + j;
            if (m - i >= ROWS && n - j >= COLUMNS)
                tile(depth, a, b, alpha, beta, to, ldc);
            else
                tile_at_edge(depth, a, b, alpha, beta, to, ldc, least(ROWS, m - i), least(COLUMNS, n - j));
        }
}

static void own(bool transpose_a, bool transpose_b, int m, int n, int k, real alpha, const real *a, int lda,
                const real *b, int ldb, real beta, real *c, int ldc) {
    struct Scratch *scratch = scratch_of_thread();
    int depths = k / DEPTH + (k % DEPTH > 0);
    for (int j = 0; j < n; j += BLOCK_COLUMNS) {
        int columns = least(BLOCK_COLUMNS, n - j);
        for (int turn = 0, p = 0; turn < depths; turn++) {
            int depth = (k - p) / (depths - turn); /* about equal */
            const real *from_b = transpose_b ? b + (size_t)j * (size_t)ldb + p : b + (size_t)p * (size_t)ldb + j;
            pack(scratch->b, from_b, ldb, !transpose_b, columns, depth, COLUMNS);
            for (int i = 0; i < m; i += BLOCK_ROWS) {
                int rows = least(BLOCK_ROWS, m - i);
                const real *from_a = transpose_a ? a + (size_t)p * (size_t)lda + i : a + (size_t)i * (size_t)lda + p;
                pack(scratch->a, from_a, lda, transpose_a, rows, depth, ROWS);
                block(scratch, rows, columns, depth, alpha, turn == 0 ? beta : 1, c + (size_t)i * (size_t)ldc + j, ldc);
            }
            p += depth;
        }
    }
}

static const char *used = "own";
static Product *product = own;

/* What `auto` takes when it is there. Own loops with AVX2 or AVX-512 are as fast as OpenBLAS (on Zen 4, over the shapes
   of training), without these they reach 40 % of it, and with NEON nobody has measured. Accelerate has matrix units,
   which own loops cannot reach. */
#if defined(__APPLE__)
static const char faster[] = "accelerate";
#elif defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
static const char faster[] = "own";
#else
static const char faster[] = "openblas";
#endif

bool gemm_use(const char *name, struct Problem *why) {
    static const char *const names[] = {"own", "openblas", "accelerate"};
    if (strcmp(name, "auto") == 0) {
        struct Problem missing;
        return gemm_use(faster, &missing) || gemm_use("own", why);
    }
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            Product *opened = i == 0 ? own : blas_open(name, why);
            if (opened == NULL)
                return false;
            used = names[i];
            product = opened;
            return true;
        }
    return problem(why, "there is no matrix product %s, only own, openblas, accelerate and auto", name);
}

const char *gemm_name(void) {
    return used;
}

/* One product cut into a grid of parts. */
struct Grid {
    bool transpose_a, transpose_b;
    int m, n, k, lda, ldb, ldc;
    int rows, columns, down, across; /* of a part, and parts in a column and in a row of the grid */
    real alpha, beta;
    const real *a, *b;
    real *c;
};

static void grid_part(void *context, int part) {
    const struct Grid *grid = context;
    int i = part / grid->across * grid->rows, m = least(grid->rows, grid->m - i);
    int j = part % grid->across * grid->columns, n = least(grid->columns, grid->n - j);
    const real *a = grid->a + (grid->transpose_a ? (size_t)i : (size_t)i * (size_t)grid->lda);
    const real *b = grid->b + (grid->transpose_b ? (size_t)j * (size_t)grid->ldb : (size_t)j);
    real *c = grid->c + (size_t)i * (size_t)grid->ldc + j;
    product(grid->transpose_a, grid->transpose_b, m, n, grid->k, grid->alpha, a, grid->lda, b, grid->ldb, grid->beta, c,
            grid->ldc);
}

/* Length of equal pieces, a multiple of `unit`. */
static int piece(int length, int pieces, int unit) {
    int size = length / pieces + (length % pieces > 0);
    return least((size + unit - 1) / unit * unit, length);
}

/* Multiplications that are worth waking a thread, and those of a part that is worth cutting further, so that threads
   that come late, or are slower, find work. */
static const double SMALL = 1 << 19, LARGE = 1 << 24;
static const int MOST = 2; /* parts per thread */

/* Chooses the grid with the least copying: each part copies its rows of A and its columns of B. */
static void cut(struct Grid *grid, int threads) {
    double parts_of_size = (double)grid->m * grid->n * grid->k / threads / LARGE;
    int parts = threads * (parts_of_size < 1 ? 1 : parts_of_size > MOST ? MOST : (int)parts_of_size);
    double best = INFINITY;
    for (int down = 1; down <= parts; down++) {
        double copied = (double)down / grid->m + (double)(parts / down) / grid->n;
        if (parts % down == 0 && copied < best) {
            best = copied;
            grid->rows = piece(grid->m, down, ROWS);
            grid->columns = piece(grid->n, parts / down, COLUMNS);
        }
    }
    grid->down = (grid->m + grid->rows - 1) / grid->rows;
    grid->across = (grid->n + grid->columns - 1) / grid->columns;
}

/* beta C, for products without terms. */
static void scale(int m, int n, real beta, real *c, int ldc) {
    for (int i = 0; i < m; i++, c += ldc)
        for (int j = 0; j < n; j++)
            c[j] = beta == 0 ? 0 : beta * c[j];
}

void gemm(struct Pool *pool, bool transpose_a, bool transpose_b, int m, int n, int k, real alpha, const real *a,
          int lda, const real *b, int ldb, real beta, real *c, int ldc) {
    if (m <= 0 || n <= 0)
        return;
    if (k <= 0) {
        scale(m, n, beta, c, ldc);
        return;
    }
    int threads = pool == NULL || (double)m * n * k < SMALL ? 1 : pool_threads(pool);
    if (threads == 1) {
        product(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    struct Grid grid = {transpose_a, transpose_b, m, n, k, lda, ldb, ldc, 0, 0, 0, 0, alpha, beta, a, b, c};
    cut(&grid, threads);
    pool_run(pool, grid.down * grid.across, grid_part, &grid);
}
