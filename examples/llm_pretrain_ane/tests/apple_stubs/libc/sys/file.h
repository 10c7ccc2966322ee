/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SYS_FILE_H
#define STUB_SYS_FILE_H

enum { LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4, LOCK_UN = 8 };

int flock(int file, int operation);

#endif
