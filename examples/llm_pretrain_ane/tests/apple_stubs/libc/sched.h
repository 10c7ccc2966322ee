/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_SCHED_H
#define STUB_SCHED_H

int sched_yield(void);

#endif
