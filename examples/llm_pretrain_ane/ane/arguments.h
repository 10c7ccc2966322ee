/* Command lines from one table per program: parsing, refusals and --help. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <stddef.h>
#include <stdint.h>

enum ArgumentKind { TEXT, CHOICE, WHOLE, SECONDS };

struct Argument {
    const char *name; /* such as --data */
    enum ArgumentKind kind;
    const char *value; /* what stands for the value in --help; of CHOICE all values, such as auto|own */
    void *to;          /* const char * for TEXT and CHOICE, int64_t, double; kept where the option is not given */
    int64_t least, most; /* of WHOLE */
    const char *meaning;
    int required;
};

/* Reads all of them, each once at most. --help prints the table and exits with 0; what is wrong is one sentence and a
   hint on standard error, and exit with 2. */
void arguments_read(int argc, char **argv, const char *program, const struct Argument *arguments, size_t count);

/* Threads where none are given: one per processor. */
int default_threads(void);
enum { MOST_THREADS = 256 };

#endif
