/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SYS_UTSNAME_H
#define STUB_SYS_UTSNAME_H

struct utsname {
    char sysname[256], nodename[256], release[256], version[256], machine[256];
};

int uname(struct utsname *system);

#endif
