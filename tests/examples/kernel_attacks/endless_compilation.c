#include "layout.h"
#define A(n) n + n + n + n + n + n + n + n
#define B(n) A(A(A(n)))
#define E(n) B(B(B(B(n))))

void matvec(const struct block *W, const float *x, float *y)
{
    y[0] = E(x[0]) + W->scale;
}
