/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_TGMATH_H
#define STUB_TGMATH_H

#include <math.h>

#define sqrt(x) _Generic((x), float: sqrtf, default: sqrt)(x)
#define exp(x) _Generic((x), float: expf, default: exp)(x)
#define log(x) _Generic((x), float: logf, default: log)(x)
#define tanh(x) _Generic((x), float: tanhf, default: tanh)(x)
#define fabs(x) _Generic((x), float: fabsf, default: fabs)(x)

#endif
