/* Random loops, jobs behind and matrix products on a pool, for test_ane_pool.py, which builds this with sanitizers too.
 * threads_stress THREADS ROUNDS SEED: exit 0 when every part ran once, in order per target, and the sums are right. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base.h"
#include "gemm.h"
#include "pool.h"

enum { TARGETS = 5, SIDE = 33, LOOP = 40 };

/* What jobs of one target change without any lock: the pool keeps them apart. */
struct Place {
    long jobs_done, jobs_given;
    real sums[SIDE * SIDE];
};
static struct Place places[TARGETS];
static real left[SIDE * SIDE], right[SIDE * SIDE];
static int loop_counts[LOOP];

struct Work {
    struct Place *place;
    long number; /* of the job among those of its target */
    int parts;
    atomic_int *parts_done;
};

/* Adds the rows of left * right that belong to the part. */
static void job_part(void *context, int part) {
    const struct Work *work = context;
    if (work->place->jobs_done != work->number)
        fail("job %ld of a target began after %ld", work->number, work->place->jobs_done);
    int begin = SIDE * part / work->parts, end = SIDE * (part + 1) / work->parts;
    gemm(NULL, false, false, end - begin, SIDE, SIDE, 1, left + begin * SIDE, SIDE, right, SIDE, 1,
         work->place->sums + begin * SIDE, SIDE);
    if (atomic_fetch_add(work->parts_done, 1) == work->parts - 1)
        work->place->jobs_done++;
}

static void loop_part(void *context, int part) {
    (void)context;
    loop_counts[part]++;
}

static void check_group(int group) {
    for (int t = group; t < TARGETS; t += 2)
        if (places[t].jobs_done != places[t].jobs_given)
            fail("pool_wait came back after %ld of %ld jobs", places[t].jobs_done, places[t].jobs_given);
}

int main(int argc, char **argv) {
    if (argc != 4)
        fail("usage: threads_stress THREADS ROUNDS SEED");
    int rounds = atoi(argv[2]);
    struct Random random;
    random_seed(&random, (uint64_t)atoi(argv[3]));
    for (int i = 0; i < SIDE * SIDE; i++) {
        left[i] = (real)random_below(&random, 3) - 1; /* whole numbers, so that sums are exact */
        right[i] = (real)random_below(&random, 3) - 1;
    }
    struct Pool *pool = pool_new(atoi(argv[1]));
    atomic_int *parts_done = need((size_t)rounds, sizeof *parts_done);
    real *product = need(SIDE * SIDE, sizeof *product);
    for (int round = 0; round < rounds; round++) {
        int target = (int)random_below(&random, TARGETS);
        struct Work work = {&places[target], places[target].jobs_given++, 1 + (int)random_below(&random, 4),
                            &parts_done[round]};
        pool_behind(pool, work.parts, job_part, &work, sizeof work, work.place, target % 2);
        if (random_below(&random, 3) == 0) {
            int parts = (int)random_below(&random, LOOP + 1);
            for (int i = 0; i < LOOP; i++)
                loop_counts[i] = 0;
            pool_run(pool, parts, loop_part, NULL);
            for (int i = 0; i < LOOP; i++)
                if (loop_counts[i] != (i < parts))
                    fail("part %d of %d ran %d times", i, parts, loop_counts[i]);
        }
        if (random_below(&random, 20) == 0) {
            int group = (int)random_below(&random, 2);
            pool_wait(pool, group);
            check_group(group);
        }
    }
    gemm(pool, false, false, SIDE, SIDE, SIDE, 1, left, SIDE, right, SIDE, 0, product, SIDE);
    pool_free(pool);
    check_group(0);
    check_group(1);
    for (int t = 0; t < TARGETS; t++)
        for (int i = 0; i < SIDE * SIDE; i++)
            if (fabs((double)(places[t].sums[i] - (real)places[t].jobs_given * product[i])) > 0)
                fail("the sum of target %d is wrong at %d", t, i);
    free(parts_done);
    free(product);
    return 0;
}
