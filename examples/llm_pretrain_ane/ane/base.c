/* What every file needs, as base.h says. Nothing here keeps state but the table of the checksum, which is made once. */
#include "base.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ALIGNMENT = 64 };

bool problem(struct Problem *problem, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->text, sizeof problem->text, format, arguments);
    va_end(arguments);
    return false;
}

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

void *need(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX)
        fail("%zu times %zu bytes of memory are more than there can be", count, size);
    void *memory;
    if (posix_memalign(&memory, ALIGNMENT, bytes > 0 ? bytes : ALIGNMENT) != 0)
        fail("not enough memory: %zu MB more are needed", (bytes >> 20) + 1);
    memset(memory, 0, bytes);
    return memory;
}

/* Python's time.monotonic(), by which the harness measures: without the time that the machine sleeps. */
#ifdef __APPLE__
#define CLOCK CLOCK_UPTIME_RAW
#else
#define CLOCK CLOCK_MONOTONIC
#endif

double seconds(void) {
    struct timespec now;
    if (clock_gettime(CLOCK, &now) != 0)
        fail("this system has no monotonic clock");
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* remainders[s][b]: what byte b contributes to the remainder when s more bytes follow it, so that eight bytes are eight
   independent look-ups ("slicing by 8"; Kounavis and Berry, 2005). */
enum { SLICES = 8 };
static uint32_t remainders[SLICES][256];
static pthread_once_t remainders_once = PTHREAD_ONCE_INIT;

static void remainders_make(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        remainders[0][byte] = crc;
    }
    for (int slice = 1; slice < SLICES; slice++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = remainders[slice - 1][byte];
            remainders[slice][byte] = before >> 8 ^ remainders[0][before & 255];
        }
}

uint32_t checksum(uint32_t crc, const void *data, size_t bytes) {
    pthread_once(&remainders_once, remainders_make);
    const unsigned char *at = data;
    crc = ~crc;
    for (; bytes >= SLICES; bytes -= SLICES, at += SLICES) {
        uint32_t next = crc;
        crc = 0;
        for (int i = 0; i < 4; i++)
            crc ^= remainders[7 - i][at[i] ^ (next >> 8 * i & 255)] ^ remainders[3 - i][at[4 + i]];
    }
    for (; bytes > 0; bytes--)
        crc = crc >> 8 ^ remainders[0][(crc ^ *at++) & 255];
    return ~crc;
}

void random_seed(struct Random *random, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t mixed = seed += 0x9E3779B97F4A7C15u;
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
        random->state[i] = mixed ^ mixed >> 31;
    }
}

static uint64_t rotated(uint64_t bits, int by) {
    return bits << by | bits >> (64 - by);
}

uint64_t random_next(struct Random *random) {
    uint64_t *state = random->state;
    uint64_t result = rotated(state[0] + state[3], 23) + state[0];
    uint64_t shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotated(state[3], 45);
    return result;
}

double random_uniform(struct Random *random) {
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

uint64_t random_below(struct Random *random, uint64_t n) {
    /* 2^64 mod n of the numbers are refused, so that each remainder is left equally often. */
    uint64_t refused = -n % n;
    uint64_t bits;
    do
        bits = random_next(random);
    while (bits < refused);
    return bits % n;
}
