/* The yardstick of speed: the plainest loop, always compiled with -O2. Also the answer for all rows of y. */
#include "layout.h"

void matvec(const struct block *W, const float *x, float *y)
{
    for (int r = 0; r < ROWS; r++) {
        float sum = 0;
        for (int b = 0; b < BLOCKS; b++) {
            const struct block *block = &W[r * BLOCKS + b];
            for (int i = 0; i < BLOCK / 2; i++) {
                sum += block->scale * ((block->packed[i] & 15) - 8) * x[b * BLOCK + i];
                sum += block->scale * ((block->packed[i] >> 4) - 8) * x[b * BLOCK + BLOCK / 2 + i];
            }
        }
        y[r] = sum;
    }
}
