/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_STDLIB_H
#define STUB_STDLIB_H

#include <stddef.h>

enum { EXIT_SUCCESS = 0, EXIT_FAILURE = 1 };

void *malloc(size_t bytes);
void *calloc(size_t count, size_t bytes);
void *realloc(void *memory, size_t bytes);
int posix_memalign(void **memory, size_t alignment, size_t bytes);
void *aligned_alloc(size_t alignment, size_t bytes);
void free(void *memory);
_Noreturn void exit(int status);
_Noreturn void abort(void);
int atexit(void (*function)(void));
char *getenv(const char *name);
int setenv(const char *name, const char *value, int overwrite);
int atoi(const char *text);
long strtol(const char *text, char **end, int base);
unsigned long strtoul(const char *text, char **end, int base);
long long strtoll(const char *text, char **end, int base);
unsigned long long strtoull(const char *text, char **end, int base);
double strtod(const char *text, char **end);
int mkstemp(char *pattern);
void qsort(void *data, size_t count, size_t bytes, int (*compare)(const void *, const void *));
char *realpath(const char *path, char *resolved);

#endif
