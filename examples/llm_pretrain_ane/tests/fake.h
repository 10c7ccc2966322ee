/* A fake of Apple's frameworks for tests without a Mac: objects with counted references, just enough of CoreFoundation,
 * IOSurface and the Objective-C runtime for ane.c (fake_foundation.c), and the classes of the Neural Engine, whose
 * programs are run by the simulator (fake_framework.c). What a caller does wrong is a complaint, and no crash.
 *
 * FAKE_ANE lists faults, separated by commas: NAME fails at every call, NAME@2 at the second, NAME@2-5, NAME@2- from
 * the second on. Names: "missing NAME" of a class or selector; framework's steps descriptor, model, identifier, escape,
 * long, compile, load, object, request, evaluate, umlauts, zeros, unload; surface, lock, unlock; no-engine, background,
 * temporary, description.
 * FAKE_ANE_REPORT names a file that is written at the end of the process: see fake_report. */
#ifndef FAKE_H
#define FAKE_H

#include <CoreFoundation/CoreFoundation.h>
#include <objc/runtime.h>

#include "base.h"

enum Kind { STRING, DATA, NUMBER, ARRAY, DICTIONARY, ERROR, MEMORY, DESCRIPTOR, MODEL, OBJECT, REQUEST };

/* Of every object here, and what CFTypeRef and id point to. */
struct objc_object {
    enum Kind kind;
    int references;
    bool constant;     /* not counted */
    char *bytes;       /* of strings, data, errors, memory; the identifier of a model */
    size_t length;     /* of bytes */
    int64_t number;    /* of numbers; codes of errors */
    int locks;         /* of memory: 0, 1 for reading, 2 for writing */
    id *items;         /* values of arrays; key, value, key, value of dictionaries; other objects that this one holds */
    size_t count;      /* of items */
    struct State *state; /* of models */
};

/* One reference, the caller's. */
id fake_new(enum Kind kind, const void *bytes, size_t length);
id fake_autorelease(id object);
/* Holds one reference more. */
void fake_hold(id object, id held);
id fake_value(id dictionary, const char *key);
bool fake_is(const void *object, enum Kind kind);
/* Called when a model goes. */
void fake_model_gone(struct State *state);

void fake_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fake_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Counts a call of the name, and says whether it is to fail. */
bool fake_faulty(const char *name);

/* For the tests. */
void fake_faults(const char *list);
/* "live N", a line "complaint: ..." for each, then a line for each step. */
const char *fake_report(void);

#endif
