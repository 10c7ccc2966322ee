/* A folder that is ours alone. Everything goes by descriptors of folders, so that no link put in the way between two
   calls can lead elsewhere. */
#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 8, OPEN_FOLDER = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

static bool plain_name(const char *name, size_t most) {
    size_t length = strlen(name);
    const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    return length > 0 && length < most && strspn(name, letters) == length;
}

static bool lock_name(const struct Folder *folder, char *text, size_t bytes) {
    int length = snprintf(text, bytes, "%s.lock", folder->name);
    return length > 0 && (size_t)length < bytes;
}

/* Removes a folder and what is in it. An entry may be passed over while others are being removed, so the folder is read
   again until there is nothing. */
static bool remove_tree(int parent, const char *name, int depth) {
    int self = openat(parent, name, OPEN_FOLDER);
    if (self < 0)
        return false;
    DIR *entries = fdopendir(self);
    if (!entries) {
        close(self);
        return false;
    }
    bool fine = depth < DEEPEST;
    for (int removed = 1; fine && removed > 0;) {
        removed = 0;
        rewinddir(entries);
        for (struct dirent *entry; fine && (entry = readdir(entries));) {
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                continue;
            struct stat what;
            fine = fstatat(self, entry->d_name, &what, AT_SYMLINK_NOFOLLOW) == 0 &&
                   (S_ISDIR(what.st_mode) ? remove_tree(self, entry->d_name, depth + 1)
                                          : unlinkat(self, entry->d_name, 0) == 0);
            removed++;
        }
    }
    return closedir(entries) == 0 && fine && unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

static void let_go(struct Folder *folder) {
    int *descriptors[] = {&folder->self, &folder->lock, &folder->parent};
    for (int i = 0; i < 3; i++) {
        if (*descriptors[i] >= 0)
            close(*descriptors[i]); /* nothing was written through these that could still fail */
        *descriptors[i] = -1;
    }
}

/* The lock file, locked. A file that was removed between opening and locking is another process's end: refused, too. */
static bool take_lock(struct Folder *folder, const char *parent, struct Problem *why) {
    char name[sizeof folder->name + 8];
    if (!lock_name(folder, name, sizeof name))
        return problem(why, "the name %s is too long", folder->name);
    folder->lock = openat(folder->parent, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (folder->lock < 0)
        return problem(why, "%s/%s cannot be made: %s", parent, name, strerror(errno));
    struct stat here, there;
    if (flock(folder->lock, LOCK_EX | LOCK_NB) != 0 || fstat(folder->lock, &here) != 0 ||
        fstatat(folder->parent, name, &there, AT_SYMLINK_NOFOLLOW) != 0 || here.st_ino != there.st_ino)
        return problem(why, "%s/%s is in use by another run of the same kernel", parent, folder->name);
    if (!S_ISREG(here.st_mode) || here.st_uid != geteuid())
        return problem(why, "%s/%s is not ours; remove it", parent, name);
    return true;
}

static void drop_lock(struct Folder *folder) {
    char name[sizeof folder->name + 8];
    if (lock_name(folder, name, sizeof name))
        unlinkat(folder->parent, name, 0);
}

/* Makes sure that there is nothing under the name: what we left there goes, anything else is refused. The lock file
   stays only where something that it marks does. */
static bool clear_name(struct Folder *folder, const char *parent, struct Problem *why) {
    struct stat folder_is, lock_is;
    if (fstatat(folder->parent, folder->name, &folder_is, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ||
               problem(why, "%s/%s cannot be looked at: %s", parent, folder->name, strerror(errno));
    bool ours = fstat(folder->lock, &lock_is) == 0 && lock_is.st_size > 0 && S_ISDIR(folder_is.st_mode) &&
                folder_is.st_uid == geteuid();
    if (!ours) {
        drop_lock(folder);
        return problem(why, "%s/%s exists and is not ours; remove it", parent, folder->name);
    }
    if (!remove_tree(folder->parent, folder->name, 0))
        return problem(why, "%s/%s, left by an earlier run, cannot be removed: %s", parent, folder->name,
                       strerror(errno));
    return true;
}

/* The lock file is marked before the folder is there: a process that ends in between leaves no unmarked folder. */
static bool make_marked(struct Folder *folder, const char *parent, struct Problem *why) {
    static const char mark[] = "The folder beside this file belongs to llm_pretrain_ane.\n";
    if (pwrite(folder->lock, mark, sizeof mark - 1, 0) == (ssize_t)(sizeof mark - 1) &&
        mkdirat(folder->parent, folder->name, 0700) == 0) {
        folder->self = openat(folder->parent, folder->name, OPEN_FOLDER);
        if (folder->self >= 0)
            return true;
        unlinkat(folder->parent, folder->name, AT_REMOVEDIR);
    }
    problem(why, "%s/%s cannot be made: %s", parent, folder->name, strerror(errno));
    drop_lock(folder);
    return false;
}

bool folder_make(struct Folder *folder, const char *parent, const char *name, struct Problem *why) {
    *folder = (struct Folder){.parent = -1, .self = -1, .lock = -1};
    if (!plain_name(name, sizeof folder->name))
        return problem(why, "\"%.80s\" is no name for a folder", name);
    memcpy(folder->name, name, strlen(name) + 1);
    folder->parent = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->parent < 0)
        return problem(why, "the folder for temporary files %s cannot be opened: %s", parent, strerror(errno));
    if (take_lock(folder, parent, why) && clear_name(folder, parent, why) && make_marked(folder, parent, why))
        return true;
    let_go(folder);
    return false;
}

/* The folder that the file is to be in, made as needed, and what is left of the path; -1 with the problem. */
static int walk(const struct Folder *folder, const char *path, char *last, size_t bytes, struct Problem *why) {
    int here = openat(folder->self, ".", OPEN_FOLDER);
    for (const char *rest = path; here >= 0;) {
        size_t length = strcspn(rest, "/");
        if (length == 0 || length >= bytes || rest[0] == '.') {
            close(here);
            problem(why, "\"%.80s\" is no path below a folder", path);
            return -1;
        }
        memcpy(last, rest, length);
        last[length] = '\0';
        if (rest[length] == '\0')
            return here;
        int next = mkdirat(here, last, 0700) == 0 || errno == EEXIST ? openat(here, last, OPEN_FOLDER) : -1;
        close(here);
        here = next;
        rest += length + 1;
    }
    problem(why, "a folder for %s cannot be made: %s", path, strerror(errno));
    return -1;
}

bool folder_write(const struct Folder *folder, const char *path, const void *data, size_t bytes, struct Problem *why) {
    char name[200];
    int place = walk(folder, path, name, sizeof name, why);
    if (place < 0)
        return false;
    int file = openat(place, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    size_t done = 0;
    for (ssize_t written; file >= 0 && done < bytes; done += (size_t)written) {
        written = write(file, (const char *)data + done, bytes - done);
        if (written <= 0)
            break;
    }
    bool fine = file >= 0 && done == bytes;
    int error = errno;
    if (file >= 0 && close(file) != 0 && fine) {
        fine = false;
        error = errno;
    }
    close(place);
    return fine || problem(why, "%s cannot be written to %s: %s", path, folder->name, strerror(error));
}

bool folder_remove(struct Folder *folder, struct Problem *why) {
    bool fine = remove_tree(folder->parent, folder->name, 0);
    if (fine)
        drop_lock(folder);
    else
        problem(why, "the folder %s cannot be removed from the folder for temporary files: %s", folder->name,
                strerror(errno));
    let_go(folder);
    return fine;
}
