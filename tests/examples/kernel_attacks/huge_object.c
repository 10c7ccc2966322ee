#include "layout.h"
char big[1 << 30] = {1};

void matvec(const struct block *W, const float *x, float *y)
{
    y[0] = W->scale * x[0] * big[0];
}
