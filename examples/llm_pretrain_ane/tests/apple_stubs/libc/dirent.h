/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_DIRENT_H
#define STUB_DIRENT_H

#include <sys/types.h>

typedef struct folder_stream DIR;
struct dirent {
    ino_t d_ino;
    char d_name[1024];
};

DIR *fdopendir(int folder);
struct dirent *readdir(DIR *entries);
void rewinddir(DIR *entries);
int closedir(DIR *entries);

#endif
