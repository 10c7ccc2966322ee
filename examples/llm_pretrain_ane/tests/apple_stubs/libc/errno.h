/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_ERRNO_H
#define STUB_ERRNO_H

int *__error(void);
#define errno (*__error())
enum {
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    EEXIST = 17,
    EINVAL = 22,
    ENOSPC = 28,
    ERANGE = 34,
    EAGAIN = 35,
    EWOULDBLOCK = 35,
    ENOTSUP = 45,
    ELOOP = 62
};

#endif
