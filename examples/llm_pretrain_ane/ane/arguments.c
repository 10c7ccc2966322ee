/* Numbers are taken only when all of their text is one, in decimal. */
#include "arguments.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void refuse(const char *program, const char *format, ...) __attribute__((format(printf, 2, 3)));

static _Noreturn void refuse(const char *program, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n\nhint: %s --help lists the options\n", program);
    exit(2);
}

static _Noreturn void help(const char *program, const struct Argument *arguments, size_t count) {
    printf("usage: %s", program);
    for (size_t i = 0; i < count; ++i) {
        const struct Argument *a = &arguments[i];
        printf(a->required ? " %s %s" : " [%s %s]", a->name, a->value);
    }
    printf("\n\n");
    for (size_t i = 0; i < count; ++i) {
        printf("%s %s\n    %s\n", arguments[i].name, arguments[i].value, arguments[i].meaning);
    }
    exit(fflush(stdout) == 0 ? 0 : 1);
}

static bool one_of(const char *text, const char *choices) {
    size_t length = strlen(text);
    bool single = length > 0 && strchr(text, '|') == NULL;
    for (const char *at = choices; single && at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, text, length) == 0 && (at[length] == '|' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

static bool whole(const char *text, int64_t least, int64_t most, int64_t *value) {
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    bool decimal = (isdigit((unsigned char)*text) || *text == '-') && *end == '\0' && end != text && errno == 0;
    if (!decimal || number < least || number > most) {
        return false;
    }
    *value = number;
    return true;
}

static bool duration(const char *text, double *value) {
    char *end;
    double number = strtod(text, &end);
    /* No hexadecimal numbers, words or blanks. */
    if (*text == '\0' || strspn(text, "0123456789.eE+-") != strlen(text) || *end != '\0' || !isfinite(number) ||
        signbit(number)) {
        return false;
    }
    *value = number;
    return true;
}

static void take(const char *program, const struct Argument *a, const char *text) {
    switch (a->kind) {
    case TEXT:
        if (*text == '\0') {
            refuse(program, "%s needs a value that is not empty", a->name);
        }
        *(const char **)a->to = text;
        break;
    case CHOICE:
        if (!one_of(text, a->value)) {
            refuse(program, "%s is '%s', but it is one of %s", a->name, text, a->value);
        }
        *(const char **)a->to = text;
        break;
    case WHOLE:
        if (!whole(text, a->least, a->most, a->to)) {
            refuse(program, "%s is '%s', but it is a whole number from %lld to %lld", a->name, text,
                   (long long)a->least, (long long)a->most);
        }
        break;
    case SECONDS:
        if (!duration(text, a->to)) {
            refuse(program, "%s is '%s', but it is a number of seconds, 0 or more", a->name, text);
        }
        break;
    }
}

static const struct Argument *find(const char *name, const struct Argument *arguments, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(arguments[i].name, name) == 0) {
            return &arguments[i];
        }
    }
    return NULL;
}

static bool given(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], name) == 0) {
            return true;
        }
    }
    return false;
}

void arguments_read(int argc, char **argv, const char *program, const struct Argument *arguments, size_t count) {
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0) {
            help(program, arguments, count);
        }
        const struct Argument *argument = find(argv[i], arguments, count);
        if (argument == NULL) {
            refuse(program, "'%s' is no option of %s", argv[i], program);
        }
        if (i + 1 == argc) {
            refuse(program, "%s needs a value", argv[i]);
        }
        if (given(i, argv, argv[i])) {
            refuse(program, "%s is given twice", argv[i]);
        }
        take(program, argument, argv[i + 1]);
    }
    for (size_t i = 0; i < count; ++i) {
        if (arguments[i].required && !given(argc, argv, arguments[i].name)) {
            refuse(program, "%s needs %s %s", program, arguments[i].name, arguments[i].value);
        }
    }
}

int default_threads(void) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    return processors < 1 ? 1 : processors > MOST_THREADS ? MOST_THREADS : (int)processors;
}
