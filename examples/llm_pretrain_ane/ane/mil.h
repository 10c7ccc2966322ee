/* The eight programs as MIL text with their constant tensors, and the file format of such tensors. */
#ifndef MIL_H
#define MIL_H

#include "device.h"
#include "packing.h"

/* The text and the blobs of a program: the causal mask, and with rope its tables. mil_free releases them. */
struct Source mil_new(enum ProgramId program, const struct Shape *shape, enum Dialect dialect);
void mil_free(struct Source *source);

/* A file of one tensor of halves, as BLOBFILE of MIL reads it: 64 bytes with the number of tensors and the version, 64
   bytes of metadata, the data. The text names the offset of the metadata. */
enum { BLOB_METADATA = 64, BLOB_DATA = 128 };
/* Writes BLOB_DATA + 2 * count bytes. */
void blob_write(void *file, const uint16_t *halves, size_t count);
/* The `count` halves whose metadata is at the offset, inside the file's memory; NULL with the problem when the file's
   words do not agree with its size, or with what is asked for. */
const uint16_t *blob_halves(const struct Blob *file, uint64_t metadata, size_t count, struct Problem *problem);

#endif
