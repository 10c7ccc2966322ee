/* Exit codes by which a worker says why it never began; a kernel that imitates them only gets a wrong sentence. */
#ifndef WORKER_H
#define WORKER_H

enum { WORKER_USAGE = 90, WORKER_NO_MEMORY, WORKER_NO_FILTER, WORKER_NO_KERNEL, WORKER_NO_EXEC };

#endif
