/* Runs one kernel for the harness: ./worker kernel.so, with a struct shared on descriptor 3.
 *
 * Everything here happens in a process that the harness does not trust: from dlopen on, its code is the candidate's.
 * What it is believed for: nothing but the contents of y while it is stopped, and the CPU time that the system charged
 * to it. The limits below stop work that the system would charge to somebody else (a helper process, a kernel thread),
 * and damage (files, signals to others). A stop is the only reply: see harness.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "layout.h"
#include "worker.h"

static void limit(int what, rlim_t value)
{
    struct rlimit both = {value, value};
    setrlimit(what, &both);
}

#ifdef __linux__
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW 4
#endif
#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#else
#error "worker.c knows the system call filter of x86-64 and arm64 only"
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define VERDICT(what) BPF_STMT(BPF_RET | BPF_K, what)
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), VERDICT(SECCOMP_RET_ALLOW)
/* Allowed when the low word of an argument has none of these bits, or is exactly this value; else on to the next. */
#define ALLOW_WITHOUT_BITS(number, arg, bits) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4), LOAD(args[arg]), \
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 1, 0), VERDICT(SECCOMP_RET_ALLOW), LOAD(nr)
#define ALLOW_IF_EQUAL(number, arg, value) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4), LOAD(args[arg]), \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1), VERDICT(SECCOMP_RET_ALLOW), LOAD(nr)
#define WRITING (01 | 02 | 0100 | 01000) /* O_WRONLY, O_RDWR, O_CREAT, O_TRUNC */

/* What loading a library, allocating memory and computing need. The rest (clone, fork, execve, kill, ptrace, sockets,
   timers, io_uring, writing files ...) ends the process with SIGSYS. */
static int filter_system_calls(void)
{
    struct sock_filter rules[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0),
        VERDICT(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
        ALLOW(SYS_exit_group), ALLOW(SYS_exit), ALLOW(SYS_read), ALLOW(SYS_pread64), ALLOW(SYS_write),
        ALLOW(SYS_close), ALLOW(SYS_lseek), ALLOW(SYS_getcwd), ALLOW(SYS_fstat), ALLOW(SYS_newfstatat),
        ALLOW(SYS_mmap), ALLOW(SYS_munmap), ALLOW(SYS_mprotect), ALLOW(SYS_mremap), ALLOW(SYS_madvise), ALLOW(SYS_brk),
        ALLOW(SYS_futex), ALLOW(SYS_getrandom), ALLOW(SYS_clock_gettime), ALLOW(SYS_getpid), ALLOW(SYS_gettid),
        ALLOW(SYS_rt_sigaction), ALLOW(SYS_rt_sigprocmask), ALLOW(SYS_rt_sigreturn), ALLOW(SYS_sched_yield),
        ALLOW(SYS_restart_syscall),
#ifdef SYS_open
        ALLOW_WITHOUT_BITS(SYS_open, 1, WRITING), ALLOW(SYS_stat), ALLOW(SYS_arch_prctl),
#endif
        ALLOW_WITHOUT_BITS(SYS_openat, 2, WRITING),
        ALLOW_IF_EQUAL(SYS_tgkill, 0, (uint32_t)getpid()), /* raise() on itself */
        ALLOW_IF_EQUAL(SYS_tkill, 0, (uint32_t)getpid()),
        VERDICT(SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    /* SPEC_ALLOW: otherwise older kernels switch on a mitigation that slows the process down */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) == 0)
        return 0;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
#else
#include <pthread.h>
#include <pthread/qos.h>

/* macOS has no such filter that needs no extra tool: fork is refused by RLIMIT_NPROC, growing files by RLIMIT_FSIZE. */
static int filter_system_calls(void)
{
    limit(RLIMIT_NPROC, 0);
    pthread_set_qos_class_self_np(QOS_CLASS_USER_INTERACTIVE, 0); /* ask for a fast core, for both kernels alike */
    return 0;
}
#endif

int main(int argc, char **argv)
{
    if (argc != 2)
        return WORKER_USAGE;
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
    if (shared == MAP_FAILED)
        return WORKER_NO_MEMORY;
    close(SHARED_FD);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_CPU, 10);
#ifdef __linux__
    limit(RLIMIT_AS, (rlim_t)2 << 30);
#endif
    if (filter_system_calls() != 0)
        return WORKER_NO_FILTER;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL); /* constructors of the candidate run here */
    void (*kernel)(const struct block *, const float *, float *) = NULL;
    if (library != NULL)
        *(void **)&kernel = dlsym(library, "matvec");
    if (kernel == NULL)
        return WORKER_NO_KERNEL;
    for (;;) {
        raise(SIGSTOP); /* the answer is ready; the harness wakes us when there is a new question */
        kernel(shared->W, shared->x, shared->y);
    }
}
