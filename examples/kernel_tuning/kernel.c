/* y = W x, W in blocks of 4-bit weights. This is the one file of the experiment: turn the knobs, or rewrite it all.
 *
 * The contract (layout.h has the types):
 *   - void matvec(W, x, y) writes all ROWS elements of y. ROWS = 2048; COLUMNS = 4096, as 128 blocks of 32 weights.
 *   - W, x and y are aligned to 64 bytes and do not overlap; a block is 20 bytes, so single blocks are not aligned.
 *   - W and x are new and random in every call, so nothing can be kept from one call for the next.
 *   - y may be off by 1 % (relative, Euclidean norm over all rows; 6 % of the root mean square in a single row): room
 *     for x rounded to 8 bits.
 *   - What counts is the CPU time of the whole process, so threads gain nothing; they and other system calls that do
 *     more than load, allocate and compute end the process.
 *   - It has to be C that the compiler named by CC takes; intrinsics are fine behind #ifdef.
 */
#include <string.h>

#include "layout.h"

/* Flags for this file. build.sh takes one literal string of this form and has the list of what is allowed;
   -march=native becomes -mcpu=native where the machine wants that. */
#define KERNEL_CFLAGS "-O2"

#define LANES 1        /* partial sums side by side in one row: 1, 4, 8, 16 */
#define TILE 1         /* rows computed together: 1, 2, 4, 8 */
#define VECTOR 0       /* 1: a row's lanes are one vector (vector_size); 0: an array, left to the compiler */
#define ACTIVATION 32  /* bits of x: 32 is float; 16 and 8 round each block of x to integers first */
#define SCALE_LATE 0   /* 1: multiply by the block's scale once per block; 0: in every product */
#define CENTRE_LATE 0  /* 1: subtract the 8 once per block, by means of the sum of x; 0: from every nibble */
#define STAGE 0        /* 1: unpack a block into a small array before multiplying (only without VECTOR) */
#define UNROLL 1       /* copies of the loop within a block: 1, 2, 4, 8, 16 */
#define BLOCK_UNROLL 1 /* copies of the loop over blocks: 1, 2, 4 */
#define PREFETCH 0     /* blocks to fetch ahead: 0 is none */

#define HALF (BLOCK / 2)
#define DO_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define UNROLL_BY(n) DO_PRAGMA(clang loop unroll_count(n))
#else
#define UNROLL_BY(n) DO_PRAGMA(GCC unroll n)
#endif

#if ACTIVATION == 32
typedef float activation, sum;
#elif ACTIVATION == 16
typedef int16_t activation;
typedef int32_t sum;
#define LARGEST 2047 /* 12 bits: a block's sum of products stays below 2^31 */
#else
typedef int8_t activation;
typedef int32_t sum;
#define LARGEST 127
#endif

/* x as the inner loop wants it */
static activation a[COLUMNS] __attribute__((aligned(64)));
static float a_scale[BLOCKS]; /* x = a * a_scale */
static float a_sum[BLOCKS];   /* sum of a over the block */

static void prepare(const float *x)
{
    for (int b = 0; b < BLOCKS; b++, x += BLOCK) {
        sum total = 0;
#if ACTIVATION == 32
        a_scale[b] = 1;
        for (int i = 0; i < BLOCK; i++)
            total += a[b * BLOCK + i] = x[i];
#else
        float largest = 0;
        for (int i = 0; i < BLOCK; i++)
            if (__builtin_fabsf(x[i]) > largest)
                largest = __builtin_fabsf(x[i]);
        a_scale[b] = largest / LARGEST;
        float inverse = largest > 0 ? LARGEST / largest : 0;
        for (int i = 0; i < BLOCK; i++)
            total += a[b * BLOCK + i] = (int)(x[i] * inverse + (x[i] < 0 ? -0.5f : 0.5f));
#endif
        a_sum[b] = total;
    }
}

#if VECTOR
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef sum sums __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef activation activations __attribute__((vector_size(sizeof(activation) * LANES)));

/* by way of 32-bit integers: gcc has no direct road from bytes to floats */
#define TO_SUMS(nibbles) __builtin_convertvector(__builtin_convertvector(nibbles, ints) - CENTRE, sums)

static inline sums load(const activation *from)
{
    activations some;
    memcpy(&some, from, sizeof some);
    return __builtin_convertvector(some, sums);
}
#else
typedef float lanes[LANES];
#endif

#define CENTRE (CENTRE_LATE ? 0 : 8)

/* Add block w, times block b of x, to the lanes of a row; and to its surplus what CENTRE_LATE takes off later. */
static inline __attribute__((always_inline)) void add_block(lanes *lane, float *surplus, const struct block *w, int b)
{
    const activation *lo = a + b * BLOCK, *hi = lo + HALF;
    float scale = w->scale * a_scale[b];

#if VECTOR
    sums part = {0};
    UNROLL_BY(UNROLL)
    for (int i = 0; i < HALF; i += LANES) {
        bytes packed;
        memcpy(&packed, w->packed + i, sizeof packed);
        sums product = TO_SUMS(packed & 15) * load(lo + i) + TO_SUMS(packed >> 4) * load(hi + i);
        if (SCALE_LATE)
            part += product;
        else
            *lane += scale * __builtin_convertvector(product, lanes);
    }
    if (SCALE_LATE)
        *lane += scale * __builtin_convertvector(part, lanes);

#else
    sum part[LANES] = {0};
#if STAGE
    activation weight[BLOCK];
    for (int i = 0; i < HALF; i++) {
        weight[i] = (w->packed[i] & 15) - CENTRE;
        weight[i + HALF] = (w->packed[i] >> 4) - CENTRE;
    }
#endif
    UNROLL_BY(UNROLL)
    for (int i = 0; i < HALF; i += LANES)
        for (int l = 0; l < LANES; l++) {
#if STAGE
            sum low = weight[i + l] * lo[i + l], high = weight[i + l + HALF] * hi[i + l];
#else
            sum low = ((w->packed[i + l] & 15) - CENTRE) * lo[i + l];
            sum high = ((w->packed[i + l] >> 4) - CENTRE) * hi[i + l];
#endif
            if (SCALE_LATE) {
                part[l] += low;
                part[l] += high;
            } else {
                (*lane)[l] += scale * low;
                (*lane)[l] += scale * high;
            }
        }
    if (SCALE_LATE)
        for (int l = 0; l < LANES; l++)
            (*lane)[l] += scale * part[l];
#endif

    if (CENTRE_LATE)
        *surplus += scale * a_sum[b];
}

void matvec(const struct block *W, const float *x, float *y)
{
    prepare(x);
    for (int r = 0; r < ROWS; r += TILE) {
        lanes lane[TILE];
        float surplus[TILE] = {0};
        memset(lane, 0, sizeof lane);
        UNROLL_BY(BLOCK_UNROLL)
        for (int b = 0; b < BLOCKS; b++) {
            UNROLL_BY(TILE)
            for (int t = 0; t < TILE; t++) {
                const struct block *w = &W[(r + t) * BLOCKS + b];
                if (PREFETCH)
                    __builtin_prefetch(w + PREFETCH);
                add_block(&lane[t], &surplus[t], w, b);
            }
        }
        for (int t = 0; t < TILE; t++) {
            float total = -8 * surplus[t];
            for (int l = 0; l < LANES; l++)
                total += lane[t][l];
            y[r + t] = total;
        }
    }
}
