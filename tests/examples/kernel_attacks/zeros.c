/* No work at all. */
#include <string.h>
#include "layout.h"

void matvec(const struct block *W, const float *x, float *y)
{
    memset(y, 0, ROWS * sizeof *y);
}
