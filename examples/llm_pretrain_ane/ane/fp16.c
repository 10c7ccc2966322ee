/* Half precision in portable C, and by the processor's own conversions where the compiler may use them. */
#include "fp16.h"

#include <string.h>

/* ANE_PORTABLE leaves the processor's conversions out, for the tests. */
#if defined(__F16C__) && !defined(ANE_PORTABLE)
#include <immintrin.h>
#elif defined(__aarch64__) && !defined(ANE_PORTABLE)
#include <arm_neon.h>
#endif

static const uint32_t INFINITE = 0x7F800000, NORMAL = 0x38800000; /* as bits: infinity, and 2^-14 */
static const uint32_t OVERFLOWS = 0x477FF000; /* 65520, which is half way from the largest half to 2^16 */
static const uint32_t REBIAS = 112u << 23;    /* between the biases of the exponents, 127 and 15 */

/* Units of 2^-24, for values below 2^-14. */
static uint32_t subnormal_of(uint32_t magnitude) {
    uint32_t exponent = magnitude >> 23;
    if (exponent < 102) /* below 2^-25 */
        return 0;
    uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
    uint32_t shift = 126 - exponent;
    uint32_t units = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), middle = 1u << (shift - 1);
    return units + (rest > middle || (rest == middle && (units & 1)));
}

uint16_t half_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF, half;
    if (magnitude > INFINITE) {
        half = 0x7E00;
    } else if (magnitude >= OVERFLOWS) {
        half = 0x7C00;
    } else if (magnitude < NORMAL) {
        half = subnormal_of(magnitude);
    } else { /* a carry out of the mantissa is the next exponent, as it should be */
        uint32_t even = magnitude >> 13 & 1;
        half = (magnitude - REBIAS + 0xFFF + even) >> 13;
    }
    return (uint16_t)(sign | half);
}

float float_of(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7FFF, bits;
    float value;
    if (magnitude < 0x0400) { /* exact, also for zero */
        value = (float)magnitude * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
    } else if (magnitude < 0x7C00) {
        bits = (magnitude << 13) + REBIAS;
    } else {
        bits = magnitude << 13 | INFINITE;
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Bulk: as many as the processor takes at once, then one by one. */
void halves_of(uint16_t *halves, const float *values, size_t count) {
    size_t i = 0;
#if defined(__F16C__) && !defined(ANE_PORTABLE)
    for (; i + 8 <= count; i += 8) {
        __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(halves + i), eight);
    }
#elif defined(__aarch64__) && !defined(ANE_PORTABLE)
    for (; i + 4 <= count; i += 4)
        vst1_u16(halves + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
#endif
    for (; i < count; i++)
        halves[i] = half_of(values[i]);
}

void floats_of(float *values, const uint16_t *halves, size_t count) {
    size_t i = 0;
#if defined(__F16C__) && !defined(ANE_PORTABLE)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(halves + i))));
#elif defined(__aarch64__) && !defined(ANE_PORTABLE)
    for (; i + 4 <= count; i += 4)
        vst1q_f32(values + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + i))));
#endif
    for (; i < count; i++)
        values[i] = float_of(halves[i]);
}

void round_to_half(float *values, size_t count) {
    size_t i = 0;
#if defined(__F16C__) && !defined(ANE_PORTABLE)
    for (; i + 8 <= count; i += 8) {
        __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(halves));
    }
#elif defined(__aarch64__) && !defined(ANE_PORTABLE)
    for (; i + 4 <= count; i += 4)
        vst1q_f32(values + i, vcvt_f32_f16(vcvt_f16_f32(vld1q_f32(values + i))));
#endif
    for (; i < count; i++)
        values[i] = float_of(half_of(values[i]));
}
