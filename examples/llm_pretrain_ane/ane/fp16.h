/* IEEE half precision: round to nearest even, subnormals, infinities; a NaN stays one, its payload is not kept. */
#ifndef FP16_H
#define FP16_H

#include <stddef.h>
#include <stdint.h>

uint16_t half_of(float value);
float float_of(uint16_t half);
void halves_of(uint16_t *halves, const float *values, size_t count);
void floats_of(float *values, const uint16_t *halves, size_t count);
/* Each value becomes the float nearest to it that a half can hold, in place. */
void round_to_half(float *values, size_t count);

#endif
