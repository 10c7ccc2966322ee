#include "layout.h"

void matvec(const struct block *W, const float *x, float *y)
{
    *(volatile float *)8 = W->scale * x[0] * y[0];
}
