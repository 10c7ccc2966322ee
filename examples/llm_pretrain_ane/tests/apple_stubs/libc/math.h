/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_MATH_H
#define STUB_MATH_H

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VAL __builtin_inf()
#define M_PI 3.14159265358979323846
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)

double sqrt(double x), exp(double x), log(double x), tanh(double x), cos(double x), sin(double x), fabs(double x);
double pow(double x, double y), fmin(double x, double y), fmax(double x, double y), fma(double x, double y, double z);
double floor(double x), ceil(double x), trunc(double x), rint(double x), ldexp(double x, int power), expm1(double x);
double acos(double x), asin(double x), atan(double x), atan2(double y, double x), sinh(double x), cosh(double x);
double log1p(double x), exp2(double x), log2(double x), round(double x), copysign(double x, double y);
float sqrtf(float x), expf(float x), logf(float x), tanhf(float x), fabsf(float x), powf(float x, float y);
float fminf(float x, float y), fmaxf(float x, float y), floorf(float x), rintf(float x), ldexpf(float x, int power);
float sinf(float x), cosf(float x), acosf(float x), atanf(float x);
float fmaf(float x, float y, float z), nearbyintf(float x), roundf(float x), copysignf(float x, float y);
long lrint(double x), lrintf(float x), lround(double x);

#endif
