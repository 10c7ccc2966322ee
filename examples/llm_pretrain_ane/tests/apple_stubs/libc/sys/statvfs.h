/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SYS_STATVFS_H
#define STUB_SYS_STATVFS_H

#include <sys/types.h>

struct statvfs {
    unsigned long f_bsize, f_frsize;
    unsigned f_blocks, f_bfree, f_bavail;
};

int statvfs(const char *path, struct statvfs *result);
int fstatvfs(int file, struct statvfs *result);

#endif
