/* The pool: one loop in front, whose parts are drawn by an atomic ticket, and a queue of jobs behind under a mutex.
 *
 * Threads without work look for some for a short time, then sleep. Those that may sleep say so before they look for the
 * last time, and those that bring work look for sleepers after they have brought it, so no wake-up is lost. */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

/* A test-size step has a loop about every 100 us, and waking a thread takes 20 to 60 us; threads should stay awake from
   one loop to the next, but not take the processor from others for longer. */
static const double SPIN_SECONDS = 200e-6;
/* Jobs that may wait; then the caller works first. */
enum { QUEUE = 128 };

struct Job {
    struct Job *next, *successor; /* in the queue; the next one with the same target */
    Part part;
    const void *target;
    int group, parts, drawn, left; /* left: parts that are not done */
    bool ready;                    /* no earlier job with this target is left */
    _Alignas(16) unsigned char context[];
};

struct Pool {
    int threads;
    pthread_t *workers;
    /* The loop in front. ticket: number of the loop << 32 | next part. The rest is only believed by one who has drawn a
       ticket of the same loop afterwards. */
    _Atomic uint64_t ticket;
    _Atomic(Part) part;
    _Atomic(void *) context;
    atomic_int parts, left;
    atomic_bool caller_sleeps;
    /* Under the mutex; the atomic ones are read without it as well. */
    pthread_mutex_t mutex;
    pthread_cond_t work, done; /* for workers; for the caller */
    struct Job *first, *last;
    int jobs;
    atomic_int offered, sleepers; /* parts of ready jobs that nobody has drawn; workers asleep */
    _Atomic uint64_t finished;    /* jobs, ever */
    atomic_bool stop;
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns true as soon as `there` says so, false after SPIN_SECONDS. */
static bool spin(struct Pool *pool, bool (*there)(struct Pool *, uint64_t), uint64_t argument) {
    double end = 0;
    for (unsigned i = 0;; i++) {
        if (there(pool, argument))
            return true;
        pause_briefly();
        if (i % 16 == 15) {
            double now = seconds();
            if (end == 0)
                end = now + SPIN_SECONDS;
            else if (now > end)
                return false;
        }
    }
}

/* Runs parts of the loop in front as long as there are some that nobody has drawn. */
static void help_in_front(struct Pool *pool) {
    uint64_t ticket = atomic_load(&pool->ticket);
    for (;;) {
        Part part = atomic_load(&pool->part);
        void *context = atomic_load(&pool->context);
        int index = (int)(uint32_t)ticket;
        if (index >= atomic_load(&pool->parts))
            return;
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1))
            continue;
        part(context, index);
        if (atomic_fetch_sub(&pool->left, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->mutex);
        }
        ticket = atomic_load(&pool->ticket);
    }
}

static bool front_done(struct Pool *pool, uint64_t unused) {
    (void)unused;
    return atomic_load(&pool->left) == 0;
}

/* Wakes as many sleeping workers as there is work for. The mutex must not be held. */
static void wake(struct Pool *pool, int parts) {
    if (parts <= 0 || atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    int sleepers = atomic_load(&pool->sleepers);
    if (parts >= sleepers)
        pthread_cond_broadcast(&pool->work);
    else
        for (int i = 0; i < parts; i++)
            pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

void pool_run(struct Pool *pool, int parts, Part part, void *context) {
    if (parts <= 1 || pool->threads == 1) {
        for (int i = 0; i < parts; i++)
            part(context, i);
        return;
    }
    /* Between loops all parts are drawn: first a ticket beyond any number of parts, so that nobody draws while the rest
       changes. */
    uint64_t loop = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store(&pool->ticket, loop << 32 | INT32_MAX);
    atomic_store(&pool->part, part);
    atomic_store(&pool->context, context);
    atomic_store(&pool->parts, parts);
    atomic_store(&pool->left, parts);
    atomic_store(&pool->ticket, (loop + 1) << 32);
    wake(pool, parts - 1);
    help_in_front(pool);
    if (spin(pool, front_done, 0))
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (!front_done(pool, 0))
        pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* From here on, functions that say "held" are called with the mutex held and return so. */

/* Held. Removes a job whose parts are all done, and lets the next one with its target go. */
static void finish(struct Pool *pool, struct Job *job) {
    struct Job **link = &pool->first, *before = NULL;
    while (*link != job) {
        before = *link;
        link = &before->next;
    }
    *link = job->next;
    if (pool->last == job)
        pool->last = before;
    pool->jobs--;
    atomic_fetch_add(&pool->finished, 1);
    if (job->successor != NULL) {
        job->successor->ready = true;
        atomic_fetch_add(&pool->offered, job->successor->parts);
        pthread_cond_broadcast(&pool->work);
    }
    pthread_cond_signal(&pool->done);
    free(job);
}

/* Held, but for the time of the work. Runs one part, of this group if it can; false when there is none to draw. */
static bool help_behind(struct Pool *pool, int group) {
    struct Job *job = NULL;
    for (struct Job *other = pool->first; other != NULL; other = other->next)
        if (other->ready && other->drawn < other->parts && (job == NULL || other->group == group)) {
            job = other;
            if (group < 0 || job->group == group)
                break;
        }
    if (job == NULL)
        return false;
    int index = job->drawn++;
    atomic_fetch_sub(&pool->offered, 1);
    pthread_mutex_unlock(&pool->mutex);
    job->part(job->context, index);
    pthread_mutex_lock(&pool->mutex);
    if (--job->left == 0)
        finish(pool, job);
    return true;
}

static bool behind_changed(struct Pool *pool, uint64_t finished) {
    return atomic_load(&pool->finished) != finished || atomic_load(&pool->offered) > 0;
}

/* Held. Works or waits; returns after some progress. */
static void advance(struct Pool *pool, int group) {
    if (help_behind(pool, group))
        return;
    uint64_t finished = atomic_load(&pool->finished);
    pthread_mutex_unlock(&pool->mutex);
    bool changed = spin(pool, behind_changed, finished);
    pthread_mutex_lock(&pool->mutex);
    while (!changed && !behind_changed(pool, finished))
        pthread_cond_wait(&pool->done, &pool->mutex);
}

void pool_behind(struct Pool *pool, int parts, Part part, const void *context, size_t bytes, const void *target,
                 int group) {
    if (parts <= 0)
        return;
    struct Job *job = need(1, sizeof *job + bytes);
    job->part = part;
    job->target = target;
    job->group = group;
    job->parts = job->left = parts;
    job->ready = true;
    if (bytes > 0)
        memcpy(job->context, context, bytes);
    pthread_mutex_lock(&pool->mutex);
    while (pool->jobs == QUEUE)
        advance(pool, -1);
    struct Job *same = NULL;
    for (struct Job *other = pool->first; other != NULL; other = other->next)
        if (other->target == target)
            same = other;
    if (same != NULL) {
        same->successor = job;
        job->ready = false;
    }
    if (pool->last == NULL)
        pool->first = job;
    else
        pool->last->next = job;
    pool->last = job;
    pool->jobs++;
    if (job->ready)
        atomic_fetch_add(&pool->offered, parts);
    bool ready = job->ready; /* the job may be gone once the mutex is free */
    pthread_mutex_unlock(&pool->mutex);
    if (ready)
        wake(pool, parts);
}

/* Held. */
static bool pending(const struct Pool *pool, int group) {
    for (const struct Job *job = pool->first; job != NULL; job = job->next)
        if (group < 0 || job->group == group)
            return true;
    return false;
}

void pool_wait(struct Pool *pool, int group) {
    pthread_mutex_lock(&pool->mutex);
    while (pending(pool, group))
        advance(pool, group);
    pthread_mutex_unlock(&pool->mutex);
}

static bool work_there(struct Pool *pool, uint64_t unused) {
    (void)unused;
    return (int)(uint32_t)atomic_load(&pool->ticket) < atomic_load(&pool->parts) || atomic_load(&pool->offered) > 0 ||
           atomic_load(&pool->stop);
}

static void *worker(void *context) {
    struct Pool *pool = context;
    while (!atomic_load(&pool->stop)) {
        help_in_front(pool);
        if (atomic_load(&pool->offered) > 0) { /* one part, then the loop in front has its turn again */
            pthread_mutex_lock(&pool->mutex);
            help_behind(pool, -1);
            pthread_mutex_unlock(&pool->mutex);
        } else if (!spin(pool, work_there, 0)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers, 1);
            while (!work_there(pool, 0))
                pthread_cond_wait(&pool->work, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
    return NULL;
}

struct Pool *pool_new(int threads) {
    if (threads < 1)
        fail("a pool needs at least one thread, not %d", threads);
    struct Pool *pool = need(1, sizeof *pool);
    pool->threads = threads;
    pool->workers = need((size_t)threads - 1, sizeof *pool->workers);
    if (pthread_mutex_init(&pool->mutex, NULL) != 0 || pthread_cond_init(&pool->work, NULL) != 0 ||
        pthread_cond_init(&pool->done, NULL) != 0)
        fail("the system has no room for the locks of a pool of threads");
    for (int i = 0; i < threads - 1; i++)
        if (pthread_create(&pool->workers[i], NULL, worker, pool) != 0)
            fail("the system gives no more than %d of %d threads", i + 1, threads);
    return pool;
}

void pool_free(struct Pool *pool) {
    if (pool == NULL)
        return;
    pool_wait(pool, -1);
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->threads - 1; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int pool_threads(const struct Pool *pool) {
    return pool->threads;
}
