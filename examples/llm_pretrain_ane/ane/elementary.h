/* exp, tanh and the logistic function in loops that compilers turn into vectors: float within a few units in the last
 * place, double by the C library. NaN stays NaN. */
#ifndef ELEMENTARY_H
#define ELEMENTARY_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base.h"

#define TANH_SMALL ((real)0.625)

#ifdef ANE_DOUBLE
static inline real real_exp(real x) {
    return exp(x);
}

static inline real real_tanh(real x) {
    return tanh(x);
}

static inline real real_tanh_small(real x) {
    return tanh(x);
}
#else
/* 2^n e^r with |r| <= ln 2 / 2; ln 2 is in two pieces, so that r is exact (Cody and Waite, 1980). The polynomial meets
   (e^r - 1 - r) / r^2 in Chebyshev nodes. Below -87 zero; what would be beyond e^88 is e^88. */
static inline float real_exp(float x) {
    const float low = -87, high = 88, shift = 0x1.8p23f; /* a sum with shift is rounded to a whole number */
    float bounded = x < low ? low : x > high ? high : x;
    float shifted = bounded * 1.44269504f + shift;
    float n = shifted - shift;
    float r = bounded - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
    float q = 1.392618359e-03f;
    q = q * r + 8.363179053e-03f;
    q = q * r + 4.166655462e-02f;
    q = q * r + 1.666657699e-01f;
    q = q * r + 0.5f;
    float power = q * (r * r) + r + 1;
    int32_t bits, exponent;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    /* The low bits of `shifted` are n; added to the exponent of the power. */
    bits = (int32_t)((uint32_t)bits + ((uint32_t)exponent << 23));
    memcpy(&power, &bits, sizeof power);
    return x < low ? 0 : x != x ? x : power;
}

/* For |x| < TANH_SMALL: odd polynomial that meets tanh(x) / x in Chebyshev nodes. */
static inline float real_tanh_small(float x) {
    float square = x * x;
    float q = -6.096714163e-03f;
    q = q * square + 2.099717900e-02f;
    q = q * square - 5.385090958e-02f;
    q = q * square + 1.333276974e-01f;
    q = q * square - 3.333332894e-01f;
    return x + x * square * q;
}

static inline float real_tanh(float x) {
    float size = x < 0 ? -x : x;
    float large = 1 - 2 / (real_exp(2 * size) + 1);
    large = x < 0 ? -large : large;
    return size < TANH_SMALL ? real_tanh_small(x) : large;
}
#endif

static inline real real_sigmoid(real x) {
    return 1 / (1 + real_exp(-x));
}

#endif
