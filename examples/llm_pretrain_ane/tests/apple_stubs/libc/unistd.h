/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_UNISTD_H
#define STUB_UNISTD_H

#include <sys/types.h>

enum { _SC_NPROCESSORS_ONLN = 58, _SC_PHYS_PAGES = 200, _SC_PAGESIZE = 29 };

int close(int file);
ssize_t read(int file, void *buffer, size_t bytes);
ssize_t write(int file, const void *buffer, size_t bytes);
ssize_t pread(int file, void *buffer, size_t bytes, off_t offset);
ssize_t pwrite(int file, const void *buffer, size_t bytes, off_t offset);
int fsync(int file);
int ftruncate(int file, off_t bytes);
int unlink(const char *path);
int unlinkat(int folder, const char *path, int flags);
pid_t getpid(void);
uid_t geteuid(void);
long sysconf(int name);
_Noreturn void _exit(int status);

#endif
