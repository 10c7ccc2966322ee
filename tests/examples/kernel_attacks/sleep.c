/* Wait without using the CPU. */
#include <unistd.h>
#define matvec honest
#include "reference.c"
#undef matvec

void matvec(const struct block *W, const float *x, float *y)
{
    sleep(60);
    honest(W, x, y);
}
