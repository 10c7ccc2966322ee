/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_FCNTL_H
#define STUB_FCNTL_H

#include <sys/types.h>

enum {
    O_RDONLY = 0,
    O_WRONLY = 1,
    O_RDWR = 2,
    O_NONBLOCK = 0x4,
    O_NOFOLLOW = 0x100,
    O_CREAT = 0x200,
    O_TRUNC = 0x400,
    O_EXCL = 0x800,
    O_DIRECTORY = 0x100000,
    O_CLOEXEC = 0x1000000
};
enum { AT_FDCWD = -2, AT_SYMLINK_NOFOLLOW = 0x20, AT_REMOVEDIR = 0x80 };

enum { F_FULLFSYNC = 51 };

int fcntl(int file, int command, ...);
int open(const char *path, int flags, ...);
int openat(int folder, const char *path, int flags, ...);

#endif
