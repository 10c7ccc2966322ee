/* The problem: y = W x with W in blocks of 4-bit weights. Shared by kernel.c, reference.c, worker.c and harness.c. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stdint.h>

#define ROWS 2048    /* rows of W and length of y; with twice as many the three copies of W fill a cache of 32 MB */
#define COLUMNS 4096 /* columns of W and length of x */
#define BLOCK 32     /* weights that share one scale */
#define BLOCKS (COLUMNS / BLOCK) /* blocks in a row */

/* weight of column i of the block = scale * (nibble - 8): columns 0..15 are the low nibbles of packed[0..15],
   columns 16..31 the high ones */
struct block {
    float scale;
    uint8_t packed[BLOCK / 2];
};

/* W is row after row, BLOCKS blocks each. W and x are read only; every element of y has to be written. */
void matvec(const struct block *W, const float *x, float *y);

/* What harness and worker share: page-aligned, so W, x and y are each aligned to 64 bytes and more. */
struct shared {
    struct block W[ROWS * BLOCKS];
    float x[COLUMNS];
    float y[ROWS];
};

#define SHARED_FD 3 /* where a worker finds its struct shared */

#endif
