/* A folder with a given name that is ours alone, for a service that reads files: made, filled, and removed again.
 *
 * It is never taken over from anybody: what exists under the name and is not ours is refused, links above all. A lock
 * file beside it, NAME.lock, says that it is ours and, by being locked, that it is in use; what a killed process has
 * left is found by it and removed. */
#ifndef FOLDER_H
#define FOLDER_H

#include "base.h"

struct Folder {
    int parent, self, lock; /* descriptors */
    char name[200];
};

/* Makes parent/name with mode 0700. The name is of letters, digits, `_` and `-`. */
bool folder_make(struct Folder *folder, const char *parent, const char *name, struct Problem *why);
/* Writes a new file at a path below the folder, such as weights/mask.bin, and the folders on the way. */
bool folder_write(const struct Folder *folder, const char *path, const void *data, size_t bytes, struct Problem *why);
/* Removes the folder with all that is in it, also what others put there, and the lock file; lets go of it anyway. */
bool folder_remove(struct Folder *folder, struct Problem *why);

#endif
