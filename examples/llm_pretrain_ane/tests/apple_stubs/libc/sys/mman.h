/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SYS_MMAN_H
#define STUB_SYS_MMAN_H

#include <sys/types.h>

enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANON = 0x1000 };
#define MAP_FAILED ((void *)-1)

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset);
int munmap(void *address, size_t bytes);

#endif
