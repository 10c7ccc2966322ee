/* The benchmark: some of what programs do all day. Immutable.
 *
 *     cc -O2 program.c -o program && ./program 1
 *
 * The argument makes the numbers, so that nothing can be worked out while compiling. What it prints has to be the same
 * whatever the flags.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 160, PIXELS = 512, WORDS = 60000, SIEVE = 2000000 };

static uint64_t state;

static uint32_t next(void) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717ull) >> 32);
}

/* Floating point: a product of matrices, in an order that lets the inner loop run along memory. */
static double product(void) {
    static double a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            a[i][j] = next() / 4294967296.0;
            b[i][j] = next() / 4294967296.0;
            c[i][j] = 0;
        }
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k++)
            for (int j = 0; j < SIDE; j++) c[i][j] += a[i][k] * b[k][j];
    double sum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) sum += c[i][j];
    return sum;
}

/* Small whole numbers: an image is blurred. */
static uint32_t blur(void) {
    static uint8_t image[PIXELS][PIXELS], blurred[PIXELS][PIXELS];
    for (int y = 0; y < PIXELS; y++)
        for (int x = 0; x < PIXELS; x++) image[y][x] = (uint8_t)next();
    for (int pass = 0; pass < 20; pass++) {
        for (int y = 1; y < PIXELS - 1; y++)
            for (int x = 1; x < PIXELS - 1; x++)
                blurred[y][x] = (uint8_t)((image[y - 1][x] + image[y + 1][x] + image[y][x - 1] + image[y][x + 1]) / 4);
        memcpy(image, blurred, sizeof image);
    }
    uint32_t sum = 0;
    for (int y = 0; y < PIXELS; y++)
        for (int x = 0; x < PIXELS; x++) sum = sum * 31 + image[y][x];
    return sum;
}

/* Branches and memory: words are counted in a hash table. */
static uint32_t count(void) {
    enum { SLOTS = 1 << 15 };
    static struct {
        char word[8];
        uint32_t count;
    } table[SLOTS];
    memset(table, 0, sizeof table);
    uint32_t most = 0;
    for (int i = 0; i < WORDS; i++) {
        char word[8] = {0};
        int length = 1 + (int)(next() % 3);
        for (int at = 0; at < length; at++) word[at] = (char)('a' + next() % 26);
        uint32_t hash = 2166136261u;
        for (int at = 0; word[at]; at++) hash = (hash ^ (uint8_t)word[at]) * 16777619u;
        uint32_t slot = hash % SLOTS;
        while (table[slot].count && strcmp(table[slot].word, word) != 0) slot = (slot + 1) % SLOTS;
        memcpy(table[slot].word, word, sizeof word);
        if (++table[slot].count > most) most = table[slot].count;
    }
    return most;
}

/* Steps through memory: the sieve of Eratosthenes. */
static uint32_t primes(void) {
    static uint8_t composite[SIEVE];
    uint32_t limit = SIEVE - next() % 1000, found = 0;
    memset(composite, 0, sizeof composite);
    for (uint32_t n = 2; n < limit; n++) {
        if (composite[n]) continue;
        found++;
        for (uint64_t multiple = (uint64_t)n * n; multiple < limit; multiple += n) composite[multiple] = 1;
    }
    return found;
}

int main(int argc, char **argv) {
    state = argc > 1 ? strtoull(argv[1], NULL, 10) * 2 + 1 : 1;
    for (int round = 0; round < 8; round++)
        printf("%.17g %u %u %u\n", product(), (unsigned)blur(), (unsigned)count(), (unsigned)primes());
    return 0;
}
