/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_DLFCN_H
#define STUB_DLFCN_H

enum { RTLD_LAZY = 1, RTLD_NOW = 2, RTLD_LOCAL = 4, RTLD_GLOBAL = 8 };

void *dlopen(const char *path, int mode);
void *dlsym(void *handle, const char *name);
char *dlerror(void);
int dlclose(void *handle);

#endif
