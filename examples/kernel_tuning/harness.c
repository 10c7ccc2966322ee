/* Measures kernel.c against reference.c:  build/harness build/worker build/kernel.so build/reference.so
 *
 * Prints "speedup: 7.31" (CPU time of the reference over CPU time of the kernel, each the minimum over the rounds) and
 * a few more numbers; or prints no number, one line on stderr, and exits 1.
 *
 * This process never loads a kernel. Each kernel has a worker process, which stops itself (SIGSTOP) when it has
 * answered. One round:
 *   1. both workers are stopped. New W and x, from the system's randomness, go into private memory, then to each worker
 *   2. the kernel is woken and has to stop with the answer in y; then the reference. In this order, so that no answer
 *      to this question exists anywhere while the kernel runs
 *   3. 128 random rows of both answers are compared with double precision arithmetic on the private copy, and all rows
 *      of the kernel's with the reference's
 * A worker's CPU clock is read once per round, just before it is woken, when it has been stopped for milliseconds, and
 * is charged from one reading to the next. So there is no moment at which work is free, and the clock is never stale:
 * Linux brings the clock of a process that runs on another core up to date only once per tick.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"
#include "worker.h"

#ifdef __linux__
#include <sys/prctl.h>
#else
#include <libproc.h>
#include <mach/mach_time.h>
#endif

#define MAX_ROUNDS 60
#define MIN_ROUNDS 6
#define SECONDS_FOR_ALL 0.9   /* no new round after this, once there are MIN_ROUNDS; raise both on a slow machine */
#define SECONDS_PER_CALL 2.0  /* wall clock; the slowest honest kernel (-O0) needs about 0.03 */
#define CHECKED_ROWS 128
#define KERNEL_TOLERANCE 1e-2 /* relative, in the Euclidean norm: room for activations rounded to 8 bits, not to 6 */
#define ROW_TOLERANCE 6e-2    /* of the worst row, relative to the root mean square of y */
#define REFERENCE_TOLERANCE 1e-4

struct worker {
    const char *name;
    pid_t pid;
    struct shared *shared;
    double charged; /* reading of the CPU clock before the last wake */
    double best;
};

static struct worker candidate = {.name = "kernel"}, reference = {.name = "reference"};
static struct block W[ROWS * BLOCKS]; /* the private copy of the question */
static float x[COLUMNS];

static void end_workers(void)
{
    struct worker *all[] = {&candidate, &reference};
    for (int i = 0; i < 2; i++)
        if (all[i]->pid > 0) {
            kill(all[i]->pid, SIGKILL);
            waitpid(all[i]->pid, NULL, 0);
            all[i]->pid = 0;
        }
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    fputs("harness: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    end_workers();
    exit(1);
}

static double wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* All threads of the process, living and dead. */
static double cpu_seconds(const struct worker *worker)
{
#ifdef __linux__
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(worker->pid, &clock) != 0 || clock_gettime(clock, &used) != 0)
        fail("cannot read the CPU clock of the %s", worker->name);
    return used.tv_sec + 1e-9 * used.tv_nsec;
#else
    struct rusage_info_v2 used;
    mach_timebase_info_data_t unit;
    if (proc_pid_rusage(worker->pid, RUSAGE_INFO_V2, (rusage_info_t *)&used) != 0 || mach_timebase_info(&unit) != 0)
        fail("cannot read the CPU clock of the %s", worker->name);
    return 1e-9 * (used.ri_user_time + used.ri_system_time) * unit.numer / unit.denom;
#endif
}

/* ---- random questions ---- */

static uint64_t state;

static uint64_t next_random(void) /* splitmix64: fast; its period and its weakness do not matter within one round */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static float uniform(uint32_t bits) /* in [0, 1) */
{
    return (bits >> 8) * 0x1p-24f;
}

/* A kernel knows ARK_SEED from nothing, but it could work the state out from the last question and answer the next one
   ahead of time; so the system's randomness goes into every round. The time does not depend on the values. */
static void new_question(void)
{
    const char *seed = getenv("ARK_SEED");
    if (getentropy(&state, sizeof state) != 0)
        fail("no randomness from the system");
    state ^= (seed ? strtoull(seed, NULL, 10) : 0) * 0xd1342543de82ef95u;
    for (int i = 0; i < ROWS * BLOCKS; i++) {
        uint64_t scale = next_random(), packed[2] = {next_random(), next_random()};
        W[i].scale = (scale & 1 ? 1 : -1) * (0.5f + uniform(scale >> 32)) / 64;
        memcpy(W[i].packed, packed, sizeof packed);
    }
    float magnitude = ldexpf(1, (int)(next_random() % 7) - 3);
    for (int i = 0; i < COLUMNS; i++)
        x[i] = magnitude * (2 * uniform(next_random() >> 32) - 1);
}

static double exact_row(int row)
{
    double sum = 0;
    for (int b = 0; b < BLOCKS; b++) {
        const struct block *block = &W[row * BLOCKS + b];
        double part = 0;
        for (int i = 0; i < BLOCK / 2; i++) {
            part += ((block->packed[i] & 15) - 8) * (double)x[b * BLOCK + i];
            part += ((block->packed[i] >> 4) - 8) * (double)x[b * BLOCK + BLOCK / 2 + i];
        }
        sum += block->scale * part;
    }
    return sum;
}

/* ---- workers ---- */

static void on_alarm(int signal) { (void)signal; } /* only interrupts waitpid */

static void await_stop(struct worker *worker)
{
    double deadline = wall_seconds() + SECONDS_PER_CALL;
    int status;
    while (waitpid(worker->pid, &status, WUNTRACED) < 0)
        if (errno != EINTR)
            fail("lost the %s", worker->name);
        else if (wall_seconds() > deadline)
            fail("the %s did not answer within %g seconds", worker->name, SECONDS_PER_CALL);
    if (WIFSTOPPED(status))
        return;
    worker->pid = 0; /* reaped */
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        fail("the %s made a system call that is not allowed (it may only compute: no threads, processes, files)",
             worker->name);
    if (WIFSIGNALED(status))
        fail("the %s was ended by signal %d (%s)", worker->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
    switch (WEXITSTATUS(status)) {
    case WORKER_NO_KERNEL: fail("the %s cannot be loaded, or has no function matvec", worker->name);
    case WORKER_NO_FILTER: fail("this system refuses the filter of system calls (seccomp) that the measurement needs");
    case WORKER_NO_MEMORY: case WORKER_NO_EXEC: fail("the worker of the %s cannot start", worker->name);
    default: fail("the %s ended its process (exit code %d)", worker->name, WEXITSTATUS(status));
    }
}

static int shared_memory(void)
{
#ifdef __linux__
    int fd = memfd_create("kernel_tuning", MFD_CLOEXEC);
#else
    char name[32];
    snprintf(name, sizeof name, "/kt%ld.%u", (long)getpid(), arc4random());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    shm_unlink(name);
#endif
    if (fd < 0 || ftruncate(fd, sizeof(struct shared)) != 0)
        fail("cannot make shared memory: %s", strerror(errno));
    return fd;
}

static void start(struct worker *worker, const char *program, const char *library)
{
    int fd = shared_memory();
    pid_t harness = getpid();
    worker->pid = fork();
    if (worker->pid < 0)
        fail("cannot fork: %s", strerror(errno));
    if (worker->pid == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != harness)
            _exit(WORKER_NO_EXEC);
        int null = open("/dev/null", O_RDWR);
        for (int i = 0; i < 3; i++)
            dup2(null, i);
        if (fd == SHARED_FD)
            fcntl(fd, F_SETFD, 0); /* dup2 onto itself would keep close-on-exec */
        else
            dup2(fd, SHARED_FD);
        for (int i = SHARED_FD + 1; i < 256; i++)
            close(i);
        char *const arguments[] = {(char *)program, (char *)library, NULL}, *const environment[] = {NULL};
        execve(program, arguments, environment); /* a new image: nothing of this process's memory goes along */
        _exit(WORKER_NO_EXEC);
    }
    worker->shared = mmap(NULL, sizeof *worker->shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (worker->shared == MAP_FAILED)
        fail("cannot map shared memory: %s", strerror(errno));
    close(fd);
    await_stop(worker);
    worker->best = INFINITY;
    worker->charged = cpu_seconds(worker);
}

/* Charge what was used since the last wake. Called when the worker has been stopped for a while. */
static void charge(struct worker *worker, int is_first)
{
    double now = cpu_seconds(worker);
    if (!is_first && now - worker->charged < worker->best)
        worker->best = now - worker->charged;
    worker->charged = now;
}

static void ask(struct worker *worker, float *answer)
{
    int status;
    if (waitpid(worker->pid, &status, WNOHANG | WUNTRACED | WCONTINUED) != 0)
        fail("the %s did not stay stopped", worker->name);
    kill(worker->pid, SIGCONT);
    await_stop(worker);
    memcpy(answer, worker->shared->y, ROWS * sizeof *answer);
}

/* ---- checks ---- */

/* Relative error in the Euclidean norm over the n values; fails when it, or the worst single value, is too large. */
static double check(const char *who, const double *expected, const double *given, int n, double tolerance)
{
    double norm = 0, error = 0, worst = 0;
    for (int i = 0; i < n; i++) {
        double difference = fabs(given[i] - expected[i]);
        norm += expected[i] * expected[i];
        error += difference * difference;
        if (!(difference <= worst)) /* this way round NaN counts as worst */
            worst = difference;
    }
    error = sqrt(error / norm);
    worst /= sqrt(norm / n);
    if (!(error <= tolerance) || !(worst <= ROW_TOLERANCE))
        fail("wrong answer of the %s: relative error %.2g, in one row %.2g (allowed: %g and %g)", who, error, worst,
             tolerance, ROW_TOLERANCE);
    return error;
}

static double check_round(const float *of_kernel, const float *of_reference)
{
    double exact[CHECKED_ROWS], kernel_rows[CHECKED_ROWS], reference_rows[CHECKED_ROWS];
    static double all_kernel[ROWS], all_reference[ROWS];
    for (int i = 0; i < CHECKED_ROWS; i++) {
        int row = next_random() % ROWS;
        exact[i] = exact_row(row);
        kernel_rows[i] = of_kernel[row];
        reference_rows[i] = of_reference[row];
    }
    for (int i = 0; i < ROWS; i++) {
        all_kernel[i] = of_kernel[i];
        all_reference[i] = of_reference[i];
    }
    check("reference", exact, reference_rows, CHECKED_ROWS, REFERENCE_TOLERANCE);
    check("kernel", exact, kernel_rows, CHECKED_ROWS, KERNEL_TOLERANCE);
    return check("kernel", all_reference, all_kernel, ROWS, KERNEL_TOLERANCE);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        fail("usage: harness WORKER KERNEL REFERENCE");
    double began = wall_seconds(), worst_error = 0;
    struct sigaction alarm_action = {.sa_handler = on_alarm}; /* no SA_RESTART */
    sigaction(SIGALRM, &alarm_action, NULL);
    /* repeats, so that an alarm just before waitpid begins does no harm */
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 100000}, {0, 100000}}, NULL);
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 0); /* no ptrace, no /proc/PID/mem from our own user */
#endif
    start(&reference, argv[1], argv[3]);
    start(&candidate, argv[1], argv[2]);
    int rounds = 0;
    for (;; rounds++) {
        static float of_kernel[ROWS], of_reference[ROWS];
        new_question();
        struct worker *both[] = {&reference, &candidate};
        int last = rounds == MAX_ROUNDS || (rounds >= MIN_ROUNDS && wall_seconds() - began > SECONDS_FOR_ALL);
        for (int i = 0; i < 2; i++) {
            charge(both[i], rounds == 0);
            if (last)
                continue;
            memcpy(both[i]->shared->W, W, sizeof W);
            memcpy(both[i]->shared->x, x, sizeof x);
            memset(both[i]->shared->y, 0xff, sizeof both[i]->shared->y); /* NaN */
        }
        if (last)
            break;
        ask(&candidate, of_kernel);
        ask(&reference, of_reference);
        double error = check_round(of_kernel, of_reference);
        if (error > worst_error)
            worst_error = error;
    }
    end_workers();
    printf("speedup: %.4f\n", reference.best / candidate.best);
    printf("kernel_ms: %.4f\n", 1e3 * candidate.best);
    printf("reference_ms: %.4f\n", 1e3 * reference.best);
    printf("weights_gb_per_s: %.3f\n", 1e-9 * sizeof W / candidate.best);
    printf("relative_error: %.2e\n", worst_error);
    printf("rounds: %d\n", rounds);
    return 0;
}
