/* What every file here needs: the number type, sentences instead of crashes, memory, clock, checksum, randomness. */
#ifndef BASE_H
#define BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The tests build everything with double to compare gradients with finite differences. */
#ifdef ANE_DOUBLE
typedef double real;
#else
typedef float real;
#endif

/* Why something could not be done: one sentence without a full stop. Empty text: nothing is wrong. */
struct Problem {
    char text[512];
};

/* Writes the sentence and returns false, for `return problem(p, "...")`. */
bool problem(struct Problem *problem, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The sentence on standard error, and exit with status 1. For main programs, and for want of memory. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* count * size bytes, zeroed, aligned to 64; free() releases them. Fails with a sentence where there are none. */
void *need(size_t count, size_t size);

/* Seconds of a clock that never goes back, and stands still while the machine sleeps. */
double seconds(void);

/* CRC-32 (IEEE 802.3, reflected, as in zlib) of the bytes, going on from `crc`, which is 0 at the start. */
uint32_t checksum(uint32_t crc, const void *data, size_t bytes);

/* xoshiro256++, the same stream on every machine (Blackman and Vigna, "Scrambled linear pseudorandom number
   generators", 2021); seeded by splitmix64. */
struct Random {
    uint64_t state[4];
};
void random_seed(struct Random *random, uint64_t seed);
uint64_t random_next(struct Random *random);
/* In [0, 1), 53 bits. */
double random_uniform(struct Random *random);
/* In 0 .. n - 1, without bias; n > 0. */
uint64_t random_below(struct Random *random, uint64_t n);

#endif
