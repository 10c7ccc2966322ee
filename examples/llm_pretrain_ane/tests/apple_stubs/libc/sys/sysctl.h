/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SYS_SYSCTL_H
#define STUB_SYS_SYSCTL_H

#include <sys/types.h>

int sysctlbyname(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);

#endif
