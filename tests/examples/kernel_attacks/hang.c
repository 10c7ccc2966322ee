#include "layout.h"

void matvec(const struct block *W, const float *x, float *y)
{
    for (;;)
        __asm__ volatile("" : : "r"(W), "r"(x), "r"(y) : "memory");
}
