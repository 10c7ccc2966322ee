/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SIGNAL_H
#define STUB_SIGNAL_H

#include <sys/types.h>

typedef int sig_atomic_t;
typedef uint32_t sigset_t;
enum { SIGHUP = 1, SIGINT = 2, SIGPIPE = 13, SIGTERM = 15, SIGXFSZ = 25, SA_RESTART = 2, SA_RESETHAND = 4 };
struct sigaction {
    void (*sa_handler)(int);
    sigset_t sa_mask;
    int sa_flags;
};
#define SIG_DFL ((void (*)(int))0)
#define SIG_IGN ((void (*)(int))1)

int sigaction(int number, const struct sigaction *new, struct sigaction *old);
int sigemptyset(sigset_t *set);
void (*signal(int number, void (*handler)(int)))(int);
int raise(int number);

#endif
