/* Writes checkpoints: to a temporary file beside them, synced, then renamed. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "checkpoint_format.h"

enum { CHUNK = 1 << 20, PROBED = 8 << 20 };

struct Writer {
    const char *path;
    char *part; /* path.part */
    FILE *stream;
    uint32_t crc;
    bool nonsense;
    int error; /* the first errno */
    float buffer[4096];
};

static char *part_path(const char *path) {
    size_t length = strlen(path) + sizeof ".part";
    char *part = need(length, 1);
    snprintf(part, length, "%s.part", path);
    return part;
}

/* A rename would put the checkpoint in the place of a device or a pipe. */
static bool replaceable(const char *path, struct Problem *p) {
    struct stat status;
    return lstat(path, &status) != 0 || S_ISREG(status.st_mode) ||
           problem(p, "cannot write the checkpoint %s: something that is not a plain file has this name", path);
}

static struct Writer *writer_open(const char *path, struct Problem *p) {
    if (!replaceable(path, p)) {
        return NULL;
    }
    struct Writer *writer = need(1, sizeof *writer);
    writer->path = path;
    writer->part = part_path(path);
    /* What a killed process left; O_EXCL then refuses links. */
    unlink(writer->part);
    int descriptor = open(writer->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    writer->stream = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (writer->stream == NULL) {
        problem(p, "cannot write the checkpoint %s: %s", path, strerror(errno));
        if (descriptor >= 0) {
            close(descriptor);
            unlink(writer->part);
        }
        free(writer->part);
        free(writer);
        return NULL;
    }
    setvbuf(writer->stream, NULL, _IOFBF, CHUNK); /* where it fails, the usual buffer will do */
    return writer;
}

static void note(struct Writer *writer, bool good) {
    if (!good && writer->error == 0) {
        writer->error = errno ? errno : EIO;
    }
}

static void put(struct Writer *writer, const void *data, size_t bytes) {
    if (writer->error == 0) {
        errno = 0;
        note(writer, fwrite(data, 1, bytes, writer->stream) == bytes);
        writer->crc = checksum(writer->crc, data, bytes);
    }
}

static void put_numbers(struct Writer *writer, const real *values, size_t count) {
    const size_t most = sizeof writer->buffer / sizeof *writer->buffer;
    for (size_t done = 0; done < count && writer->error == 0;) {
        size_t part = count - done < most ? count - done : most;
        bool finite = true;
        for (size_t i = 0; i < part; ++i) {
            float value = values ? (float)values[done + i] : 0;
            writer->buffer[i] = value;
            finite &= value - value == 0;
        }
        writer->nonsense |= !finite;
        put(writer, writer->buffer, part * sizeof(float));
        done += part;
    }
}

/* fsync of macOS leaves the bytes in the disk's own memory; a network disk may know nothing else. */
static bool sync_to_disk(int descriptor) {
#ifdef __APPLE__
    if (fcntl(descriptor, F_FULLFSYNC) == 0) {
        return true;
    }
#endif
    return fsync(descriptor) == 0;
}

/* Brings the bytes to the disk and closes the file. */
static void writer_finish(struct Writer *writer) {
    errno = 0;
    note(writer, fflush(writer->stream) == 0);
    note(writer, writer->error != 0 || sync_to_disk(fileno(writer->stream)));
    note(writer, fclose(writer->stream) == 0);
}

/* Removes what was written unless it was renamed. */
static void writer_free(struct Writer *writer, bool renamed) {
    if (!renamed) {
        unlink(writer->part);
    }
    free(writer->part);
    free(writer);
}

/* So that the new name, too, is on the disk. */
static bool sync_folder(const char *path, struct Problem *p) {
    const char *slash = strrchr(path, '/');
    size_t length = slash == path ? 1 : slash ? (size_t)(slash - path) : 1;
    char *folder = need(length + 1, 1);
    memcpy(folder, slash ? path : ".", length);
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    /* Some file systems cannot sync folders, and need not. */
    bool good = descriptor >= 0 && (sync_to_disk(descriptor) || errno == EINVAL || errno == ENOTSUP);
    int error = errno;
    if (descriptor >= 0) {
        close(descriptor);
    }
    return good || problem(p, "cannot sync the folder of the checkpoint %s: %s", path, strerror(error));
}

static void put_section(struct Writer *writer, const struct Checkpoint *header, const struct Parameters *parameters,
                        const struct Tokens *tokens, int section) {
    for (int t = 0; t < parameters->count - 1; ++t) {
        const struct Tensor *tensor = &parameters->tensors[t];
        put_numbers(writer, checkpoint_section(tensor, section), (size_t)tensor->rows * (size_t)tensor->columns);
    }
    const struct Tensor *table = embedding(parameters);
    size_t columns = (size_t)table->columns;
    real *initial = need(columns, sizeof *initial);
    for (int id = 0; id < tokens->vocab && writer->error == 0; ++id) {
        int32_t class = tokens->class_of[id];
        if (class < 0 && section == 0) {
            embedding_row(initial, table->columns, header->init_seed, id);
        }
        put_numbers(writer,
                    class >= 0     ? checkpoint_section(table, section) + (size_t)class * columns
                    : section == 0 ? initial
                                   : NULL,
                    columns);
    }
    free(initial);
}

static void put_all(struct Writer *writer, const struct Checkpoint *header, const struct Parameters *parameters,
                    const struct Tokens *tokens) {
    struct Checkpoint sealed = *header;
    memcpy(sealed.magic, checkpoint_magic, sizeof sealed.magic);
    sealed.version = CHECKPOINT_VERSION;
    sealed.tensors = parameters->count;
    sealed.header_checksum = checksum(0, &sealed, offsetof(struct Checkpoint, header_checksum));
    put(writer, &sealed, sizeof sealed);
    for (int section = 0; section < checkpoint_sections(sealed.lion); ++section) {
        put_section(writer, &sealed, parameters, tokens, section);
    }
    uint32_t crc = writer->crc;
    put(writer, &crc, sizeof crc);
}

bool checkpoint_save(const char *path, const struct Checkpoint *header, const struct Parameters *parameters,
                     const struct Tokens *tokens, struct Problem *p) {
    struct Writer *writer = writer_open(path, p);
    if (writer == NULL) {
        return false;
    }
    put_all(writer, header, parameters, tokens);
    writer_finish(writer);
    bool renamed = false;
    if (writer->nonsense) {
        problem(p, "the weights or moments are not finite: no checkpoint was written");
    } else {
        renamed = writer->error == 0 && rename(writer->part, path) == 0;
        if (!renamed) {
            problem(p, "cannot write the checkpoint %s: %s", path, strerror(writer->error ? writer->error : errno));
        }
    }
    writer_free(writer, renamed);
    return renamed && sync_folder(path, p);
}

static bool room_check(const struct Writer *writer, int64_t bytes, struct Problem *p) {
    struct statvfs room;
    if (fstatvfs(fileno(writer->stream), &room) != 0) {
        return true; /* not known is not full */
    }
    double free_bytes = (double)room.f_bavail * (double)room.f_frsize;
    return free_bytes >= (double)bytes || problem(p, "the checkpoint %s needs %.1f MB, and its disk has %.1f MB left",
                                                  writer->path, (double)bytes / 1e6, free_bytes / 1e6);
}

bool checkpoint_probe(const char *path, int64_t bytes, double *seconds_needed, struct Problem *p) {
    struct Writer *writer = writer_open(path, p);
    if (writer == NULL) {
        return false;
    }
    bool good = room_check(writer, bytes, p);
    int64_t probed = !good ? 0 : bytes < PROBED ? bytes : PROBED;
    double begin = seconds();
    for (int64_t done = 0; done < probed; done += (int64_t)sizeof writer->buffer) {
        put(writer, writer->buffer, sizeof writer->buffer);
    }
    writer_finish(writer);
    if (good && writer->error != 0) {
        good = problem(p, "cannot write the checkpoint %s: %s", path, strerror(writer->error));
    }
    *seconds_needed = good ? (seconds() - begin) * ((double)bytes / (double)probed) : 0;
    writer_free(writer, false);
    return good;
}
