/* Threads: loops in parallel, and jobs behind that run when a thread has nothing else to do.
 *
 * What a part computes never depends on which thread takes it, so results are the same bits in every run with the same
 * number of threads. */
#ifndef POOL_H
#define POOL_H

#include <stddef.h>

struct Pool;
typedef void (*Part)(void *context, int part);

/* `threads` counts the caller; 1 means no further thread. Fails with a sentence when the system gives none. */
struct Pool *pool_new(int threads);
/* Waits for all jobs behind. */
void pool_free(struct Pool *pool);
int pool_threads(const struct Pool *pool);

/* Runs part 0 .. parts - 1, the caller helping; returns when all are done. Only from the thread that made the pool. */
void pool_run(struct Pool *pool, int parts, Part part, void *context);

/* Runs part 0 .. parts - 1 some time later, with a copy of the `bytes` of context. Jobs with the same `target` run one
   after the other in the order given, so that sums into one place have a fixed order; others may overlap. `group` >= 0
   names what pool_wait waits for. A part must not use the pool. */
void pool_behind(struct Pool *pool, int parts, Part part, const void *context, size_t bytes, const void *target,
                 int group);
/* Returns when all jobs behind of the group are done, the caller helping; group -1: all. */
void pool_wait(struct Pool *pool, int group);

#endif
