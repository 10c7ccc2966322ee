/* The Neural Engine by Apple's private framework: ane_executor of device.h, in plain C over the Objective-C runtime.
 *
 * The framework is opened at run time, and every class and method is looked for before the first message: a macOS that
 * lacks one gets a sentence. objc_msgSend is called by the exact type of each method, as arm64 demands. Data, numbers,
 * dictionaries, arrays, strings and errors of Foundation are those of CoreFoundation, and CFRetain and CFRelease count
 * the references of any object. That the framework works as it is used here is reported by others; see README. */
#include <CoreFoundation/CoreFoundation.h>
#include <IOSurface/IOSurfaceRef.h>
#include <dlfcn.h>
#include <objc/message.h>
#include <objc/runtime.h>
#include <pthread.h>
#include <pthread/qos.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"
#include "folder.h"

#ifndef FRAMEWORK_PATH
#define FRAMEWORK_PATH "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"
#endif

/* Of the runtime and of Foundation; their headers are not for C. */
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);
CFStringRef NSTemporaryDirectory(void);

enum {
    MOST_LOADS = 100, /* after about as many compilations in a process the next ones fail without an error */
    RETRY_NANOSECONDS = 100000000
};

/* One function by the types of all methods; a cast by name is an error to gcc. */
static const union {
    void (*any)(void);
    id (*describe)(Class, SEL, CFDataRef, CFDictionaryRef, CFDataRef);
    id (*make_model)(Class, SEL, id);
    CFStringRef (*identifier)(id, SEL);
    BOOL (*prepare)(id, SEL, unsigned, CFDictionaryRef, CFErrorRef *);
    id (*wrap)(Class, SEL, IOSurfaceRef);
    id (*make_request)(Class, SEL, CFArrayRef, CFArrayRef, CFArrayRef, CFArrayRef, CFTypeRef, CFTypeRef, CFNumberRef);
    BOOL (*evaluate)(id, SEL, unsigned, CFDictionaryRef, id, CFErrorRef *);
    BOOL (*unload)(id, SEL, unsigned, CFErrorRef *);
    CFStringRef (*text_of)(Class, SEL);
    unsigned (*number_of)(Class, SEL);
    BOOL (*flag_of)(Class, SEL);
} message = {objc_msgSend};

enum Name { DESCRIPTOR, MODEL, SURFACE, REQUEST, CLASSES };
static const char *const class_names[CLASSES] = {
    [DESCRIPTOR] = "_ANEInMemoryModelDescriptor",
    [MODEL] = "_ANEInMemoryModel",
    [SURFACE] = "_ANEIOSurfaceObject",
    [REQUEST] = "_ANERequest",
};

enum Method { DESCRIBE, MAKE_MODEL, IDENTIFIER, COMPILE, LOAD, WRAP, MAKE_REQUEST, EVALUATE, UNLOAD, METHODS };
static const struct {
    enum Name class;
    bool of_class;
    const char *selector;
} methods[METHODS] = {
    [DESCRIBE] = {DESCRIPTOR, true, "modelWithMILText:weights:optionsPlist:"},
    [MAKE_MODEL] = {MODEL, true, "inMemoryModelWithDescriptor:"},
    [IDENTIFIER] = {MODEL, false, "hexStringIdentifier"},
    [COMPILE] = {MODEL, false, "compileWithQoS:options:error:"},
    [LOAD] = {MODEL, false, "loadWithQoS:options:error:"},
    [WRAP] = {SURFACE, true, "objectWithIOSurface:"},
    [MAKE_REQUEST] = {REQUEST, true,
                      "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"},
    [EVALUATE] = {MODEL, false, "evaluateWithQoS:options:request:error:"},
    [UNLOAD] = {MODEL, false, "unloadWithQoS:error:"},
};

struct Engine {
    Class classes[CLASSES];
    SEL selectors[METHODS];
    unsigned qos;
    CFDictionaryRef none; /* no options; the framework takes no NULL */
    CFNumberRef zero;
    CFArrayRef first; /* [0]: the index of the only input or output */
};

struct Program {
    const struct Engine *engine;
    id model;
    bool loaded, has_folder;
    struct Folder folder;
    char name[64];
    struct Program *next; /* of those not yet unloaded */
};

struct Surface {
    IOSurfaceRef memory;
    id object;
    size_t bytes;
};

struct Binding {
    struct Program *program;
    id request, input, output;
};

static int loads; /* of this process */
static struct Program *live;
static pthread_t loader; /* the thread that has the executor */

static void release(CFTypeRef object) {
    if (object) /* CFRelease(NULL) is a crash */
        CFRelease(object);
}

/* As many whole characters as there is room for. CFStringGetCString gives all or nothing. */
static void copy_text(CFStringRef text, char *room, size_t bytes) {
    CFIndex used = 0;
    CFStringGetBytes(text, CFRangeMake(0, CFStringGetLength(text)), kCFStringEncodingUTF8, '?', false, (UInt8 *)room,
                     (CFIndex)bytes - 1, &used);
    room[used] = '\0';
}

/* "<what> failed: <the framework's words>", with line breaks as spaces. Returns false. The words are often longer than
   the sentence may be; what matters is in their first half, since the second one repeats it. */
static bool refused(struct Problem *why, const char *what, CFErrorRef error) {
    char words[sizeof why->text - 32] = "no reason was given";
    CFStringRef text = error ? CFCopyDescription(error) : NULL;
    if (text) {
        copy_text(text, words, sizeof words);
    } else if (error) {
        char domain[200];
        copy_text(CFErrorGetDomain(error), domain, sizeof domain);
        snprintf(words, sizeof words, "Error Domain=%s Code=%ld", domain, (long)CFErrorGetCode(error));
    }
    release(text);
    for (char *c = words; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    return problem(why, "%s failed: %s", what, words);
}

/* ---- programs ---- */

/* {"@model_path/<path>": {"offset": 0, "data": bytes}}. */
static CFDictionaryRef weights_of(const struct Engine *engine, const struct Source *source) {
    CFMutableDictionaryRef all =
        CFDictionaryCreateMutable(NULL, 0, &kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
    bool fine = all != NULL;
    for (int i = 0; fine && i < source->blob_count; i++) {
        const struct Blob *blob = &source->blobs[i];
        char path[256];
        int length = snprintf(path, sizeof path, "@model_path/%s", blob->path);
        CFStringRef key = NULL;
        if (length > 0 && (size_t)length < sizeof path)
            key = CFStringCreateWithCString(NULL, path, kCFStringEncodingUTF8);
        CFDataRef data = CFDataCreate(NULL, blob->data, (CFIndex)blob->bytes);
        const void *names[] = {CFSTR("offset"), CFSTR("data")}, *values[] = {engine->zero, data};
        CFDictionaryRef entry = data ? CFDictionaryCreate(NULL, names, values, 2, &kCFTypeDictionaryKeyCallBacks,
                                                          &kCFTypeDictionaryValueCallBacks)
                                     : NULL;
        fine = key && entry;
        if (fine)
            CFDictionarySetValue(all, key, entry);
        release(entry);
        release(data);
        release(key);
    }
    if (!fine) {
        release(all);
        return NULL;
    }
    return all;
}

static id describe(const struct Engine *engine, const struct Source *source) {
    CFDataRef text = CFDataCreate(NULL, (const UInt8 *)source->text, (CFIndex)source->length);
    CFDictionaryRef weights = weights_of(engine, source);
    id descriptor = NULL;
    if (text && weights)
        descriptor = message.describe(engine->classes[DESCRIPTOR], engine->selectors[DESCRIBE], text, weights, NULL);
    release(weights);
    release(text);
    return descriptor;
}

/* The compiler service is another process and reads files, under the name that the framework makes of the content. */
static bool write_files(struct Program *program, const struct Source *source, struct Problem *why) {
    const struct Engine *engine = program->engine;
    CFStringRef identifier = message.identifier(program->model, engine->selectors[IDENTIFIER]);
    CFStringRef temporary = NSTemporaryDirectory();
    char name[sizeof program->folder.name], parent[1024];
    if (!identifier || !temporary || !CFStringGetCString(temporary, parent, sizeof parent, kCFStringEncodingUTF8))
        return problem(why, "the framework does not say where it wants the files");
    if (!CFStringGetCString(identifier, name, sizeof name, kCFStringEncodingUTF8))
        return problem(why, "the framework's name for the folder is longer than %zu letters", sizeof name - 1);
    size_t length = strlen(parent);
    if (length > 1 && parent[length - 1] == '/')
        parent[length - 1] = '\0';
    if (!folder_make(&program->folder, parent, name, why))
        return false;
    program->has_folder = true;
    bool fine = folder_write(&program->folder, "model.mil", source->text, source->length, why);
    for (int i = 0; fine && i < source->blob_count; i++) {
        const struct Blob *blob = &source->blobs[i];
        fine = folder_write(&program->folder, blob->path, blob->data, blob->bytes, why);
    }
    return fine;
}

static bool prepare(const struct Program *program, enum Method method, CFErrorRef *error) {
    const struct Engine *engine = program->engine;
    *error = NULL;
    return message.prepare(program->model, engine->selectors[method], engine->qos, engine->none, error);
}

static bool make_program(struct Program *program, const struct Source *source, struct Problem *why) {
    const struct Engine *engine = program->engine;
    id descriptor = describe(engine, source), model = NULL;
    if (descriptor)
        model = message.make_model(engine->classes[MODEL], engine->selectors[MAKE_MODEL], descriptor);
    if (!model)
        return problem(why, "the framework makes no %s of it", descriptor ? "model" : "descriptor");
    program->model = (id)CFRetain(model);
    if (!write_files(program, source, why))
        return false;
    CFErrorRef error;
    loads++;
    if (!prepare(program, COMPILE, &error))
        return refused(why, "compiling", error);
    program->loaded = prepare(program, LOAD, &error);
    if (!program->loaded) { /* reported to pass the second time */
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NANOSECONDS}, NULL);
        program->loaded = prepare(program, LOAD, &error);
    }
    return program->loaded || refused(why, "loading", error);
}

static void notice(const struct Program *program, const struct Problem *why) {
    fprintf(stderr, "notice: ane: %s: %s\n", program->name, why->text);
}

static void unload(void *self, void *handle) {
    const struct Engine *engine = self;
    struct Program *program = handle, **at = &live;
    struct Problem why;
    while (*at != program)
        at = &(*at)->next;
    *at = program->next;
    void *pool = objc_autoreleasePoolPush();
    CFErrorRef error = NULL;
    if (program->loaded && !message.unload(program->model, engine->selectors[UNLOAD], engine->qos, &error)) {
        refused(&why, "unloading", error);
        notice(program, &why);
    }
    if (program->has_folder && !folder_remove(&program->folder, &why))
        notice(program, &why);
    release(program->model);
    objc_autoreleasePoolPop(pool);
    free(program);
}

/* The programs of a process that ends early, so that no folder is left. Surfaces are not touched, since other threads
   may be at work on them. Should another thread end the process, the next run removes the folders. */
static void unload_all(void) {
    while (live && pthread_equal(pthread_self(), loader))
        unload((void *)live->engine, live);
}

static void *load(void *self, const struct Source *source, struct Problem *why) {
    static bool registered; /* only now: what is registered after the framework's own functions is called before them */
    if (!registered)
        registered = atexit(unload_all) == 0;
    loader = pthread_self();
    if (loads >= MOST_LOADS) {
        problem(why, "a process cannot compile more than %d programs", MOST_LOADS);
        return NULL;
    }
    struct Program *program = need(1, sizeof *program);
    program->engine = self;
    program->next = live;
    live = program;
    snprintf(program->name, sizeof program->name, "%s", source->name);
    void *pool = objc_autoreleasePoolPush();
    bool fine = make_program(program, source, why);
    objc_autoreleasePoolPop(pool);
    if (fine)
        return program;
    unload(self, program);
    return NULL;
}

/* ---- surfaces ---- */

/* One row of bytes. */
static IOSurfaceRef create(size_t bytes) {
    const void *keys[] = {kIOSurfaceWidth,       kIOSurfaceHeight,    kIOSurfaceBytesPerElement,
                          kIOSurfaceBytesPerRow, kIOSurfaceAllocSize, kIOSurfacePixelFormat};
    const int64_t numbers[] = {(int64_t)bytes, 1, 1, (int64_t)bytes, (int64_t)bytes, 0};
    enum { COUNT = sizeof keys / sizeof *keys };
    const void *values[COUNT];
    bool fine = true;
    for (int i = 0; i < COUNT; i++)
        fine = (values[i] = CFNumberCreate(NULL, kCFNumberSInt64Type, &numbers[i])) && fine;
    CFDictionaryRef properties = NULL;
    if (fine)
        properties = CFDictionaryCreate(NULL, keys, values, COUNT, &kCFTypeDictionaryKeyCallBacks,
                                        &kCFTypeDictionaryValueCallBacks);
    IOSurfaceRef memory = properties ? IOSurfaceCreate(properties) : NULL;
    release(properties);
    for (int i = 0; i < COUNT; i++)
        release(values[i]);
    return memory;
}

static void *lock(void *self, void *handle, bool write, struct Problem *why) {
    (void)self;
    struct Surface *surface = handle;
    kern_return_t code = IOSurfaceLock(surface->memory, write ? 0 : kIOSurfaceLockReadOnly, NULL);
    if (code != 0) {
        problem(why, "a surface of %zu bytes cannot be locked: code 0x%x", surface->bytes, (unsigned)code);
        return NULL;
    }
    void *base = IOSurfaceGetBaseAddress(surface->memory);
    if (!base) {
        problem(why, "a surface of %zu bytes has no address", surface->bytes);
        IOSurfaceUnlock(surface->memory, write ? 0 : kIOSurfaceLockReadOnly, NULL);
    }
    return base;
}

static bool unlock(void *self, void *handle, bool write, struct Problem *why) {
    (void)self;
    struct Surface *surface = handle;
    kern_return_t code = IOSurfaceUnlock(surface->memory, write ? 0 : kIOSurfaceLockReadOnly, NULL);
    return code == 0 ||
           problem(why, "a surface of %zu bytes cannot be unlocked: code 0x%x", surface->bytes, (unsigned)code);
}

static void release_surface(void *self, void *handle) {
    (void)self;
    struct Surface *surface = handle;
    release(surface->object);
    release(surface->memory);
    free(surface);
}

static bool make_surface(const struct Engine *engine, struct Surface *surface, size_t bytes, struct Problem *why) {
    if (bytes > MOST_SURFACE)
        return problem(why, "a surface of %zu bytes is too large", bytes);
    bytes = surface_bytes(bytes);
    surface->bytes = bytes;
    surface->memory = create(bytes);
    if (!surface->memory || IOSurfaceGetAllocSize(surface->memory) < bytes)
        return problem(why, "there is no memory for a surface of %zu bytes", bytes);
    id object = message.wrap(engine->classes[SURFACE], engine->selectors[WRAP], surface->memory);
    if (!object)
        return problem(why, "the framework refuses a surface of %zu bytes", bytes);
    surface->object = (id)CFRetain(object);
    void *base = lock(NULL, surface, true, why);
    if (!base)
        return false;
    memset(base, 0, bytes);
    return unlock(NULL, surface, true, why);
}

static void *surface(void *self, size_t bytes, struct Problem *why) {
    struct Surface *surface = need(1, sizeof *surface);
    void *pool = objc_autoreleasePoolPush();
    bool fine = make_surface(self, surface, bytes, why);
    objc_autoreleasePoolPop(pool);
    if (fine)
        return surface;
    release_surface(self, surface);
    return NULL;
}

/* ---- evaluations ---- */

static id request(const struct Engine *engine, id input, id output) {
    const void *ins[] = {input}, *outs[] = {output};
    CFArrayRef inputs = CFArrayCreate(NULL, ins, 1, &kCFTypeArrayCallBacks);
    CFArrayRef outputs = CFArrayCreate(NULL, outs, 1, &kCFTypeArrayCallBacks);
    id made = NULL;
    if (inputs && outputs)
        made = message.make_request(engine->classes[REQUEST], engine->selectors[MAKE_REQUEST], inputs, engine->first,
                                    outputs, engine->first, NULL, NULL, engine->zero);
    release(outputs);
    release(inputs);
    return made ? (id)CFRetain(made) : NULL;
}

/* The surfaces' objects are held, too: whether a request holds them is not known. */
static void *bind_surfaces(void *self, void *handle, void *input, void *output, struct Problem *why) {
    struct Program *program = handle;
    struct Binding *binding = need(1, sizeof *binding);
    binding->program = program;
    binding->input = (id)CFRetain(((struct Surface *)input)->object);
    binding->output = (id)CFRetain(((struct Surface *)output)->object);
    void *pool = objc_autoreleasePoolPush();
    binding->request = request(self, binding->input, binding->output);
    objc_autoreleasePoolPop(pool);
    if (binding->request)
        return binding;
    problem(why, "the framework makes no request");
    release(binding->output);
    release(binding->input);
    free(binding);
    return NULL;
}

static void unbind(void *self, void *handle) {
    (void)self;
    struct Binding *binding = handle;
    release(binding->request);
    release(binding->output);
    release(binding->input);
    free(binding);
}

static bool run(void *self, void *handle, struct Problem *why) {
    const struct Engine *engine = self;
    struct Binding *binding = handle;
    void *pool = objc_autoreleasePoolPush();
    CFErrorRef error = NULL;
    bool fine = message.evaluate(binding->program->model, engine->selectors[EVALUATE], engine->qos, engine->none,
                                 binding->request, &error);
    if (!fine)
        refused(why, "evaluating", error);
    objc_autoreleasePoolPop(pool);
    return fine;
}

/* ---- the framework ---- */

static bool has_method(Class class, SEL selector, bool of_class) {
    return class && (of_class ? class_getClassMethod(class, selector) : class_getInstanceMethod(class, selector));
}

static bool look_up(struct Engine *engine, struct Problem *why) {
    for (int i = 0; i < CLASSES; i++) {
        engine->classes[i] = (Class)objc_getClass(class_names[i]);
        if (!engine->classes[i])
            return problem(why, "this macOS has no class %s, which the Neural Engine needs", class_names[i]);
    }
    for (int i = 0; i < METHODS; i++) {
        engine->selectors[i] = sel_registerName(methods[i].selector);
        if (!has_method(engine->classes[methods[i].class], engine->selectors[i], methods[i].of_class))
            return problem(why, "this macOS has no method %c[%s %s], which the Neural Engine needs",
                           methods[i].of_class ? '+' : '-', class_names[methods[i].class], methods[i].selector);
    }
    return true;
}

/* False only where the framework says so. */
static bool has_engine(void) {
    Class info = (Class)objc_getClass("_ANEDeviceInfo");
    SEL selector = sel_registerName("hasANE");
    return !has_method(info, selector, true) || message.flag_of(info, selector);
}

/* Of compilations and evaluations: 0 real-time, 9 background, 17 utility, 21 default,
   25 user-initiated, 33 user-interactive. Which is fastest differs between chips. */
bool ane_qos(unsigned *qos, struct Problem *why) {
    static const struct {
        const char *text;
        unsigned value;
    } known[] = {{"0", 0}, {"9", 9}, {"17", 17}, {"21", 21}, {"25", 25}, {"33", 33}};
    const char *text = getenv("ANE_QOS");
    *qos = 21;
    for (size_t i = 0; text && i < sizeof known / sizeof *known; i++)
        if (strcmp(text, known[i].text) == 0) {
            *qos = known[i].value;
            return true;
        }
    return !text || problem(why, "ANE_QOS is \"%.40s\", but must be 0, 9, 17, 21, 25 or 33", text);
}

static void close_engine(void *self) {
    struct Engine *engine = self;
    release(engine->first);
    release(engine->zero);
    release(engine->none);
    free(engine);
}

static bool open_engine(struct Engine *engine, struct Problem *why) {
    if (!ane_qos(&engine->qos, why))
        return false;
    if (!dlopen(FRAMEWORK_PATH, RTLD_NOW)) /* for good: classes cannot be unloaded */
        return problem(why, "this machine has no Neural Engine, or its framework is blocked");
    if (!look_up(engine, why))
        return false;
    if (!has_engine())
        return problem(why, "this machine has no Neural Engine");
    const int64_t zero = 0;
    engine->none =
        CFDictionaryCreate(NULL, NULL, NULL, 0, &kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
    engine->zero = CFNumberCreate(NULL, kCFNumberSInt64Type, &zero);
    const void *indices[] = {engine->zero};
    engine->first = engine->zero ? CFArrayCreate(NULL, indices, 1, &kCFTypeArrayCallBacks) : NULL;
    return (engine->none && engine->first) || problem(why, "there is no memory for the Neural Engine's framework");
}

bool ane_executor(struct Executor *executor, struct Problem *why) {
    struct Engine *engine = need(1, sizeof *engine);
    void *pool = objc_autoreleasePoolPush();
    bool fine = open_engine(engine, why);
    objc_autoreleasePoolPop(pool);
    if (!fine) {
        close_engine(engine);
        return false;
    }
    /* A caller in the background is reported to wait twice as long for each evaluation. */
    if (qos_class_self() == QOS_CLASS_BACKGROUND && pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0) != 0)
        fprintf(stderr, "notice: ane: this thread stays in the background, which makes evaluations slow\n");
    *executor = (struct Executor){
        .name = "ane",
        .self = engine,
        .load = load,
        .unload = unload,
        .surface = surface,
        .release = release_surface,
        .lock = lock,
        .unlock = unlock,
        .bind = bind_surfaces,
        .unbind = unbind,
        .run = run,
        .close = close_engine,
    };
    return true;
}

/* What a class method without arguments says, or "unknown". */
static void say(Class class, const char *selector, char *text, size_t bytes) {
    SEL registered = sel_registerName(selector);
    CFStringRef said = has_method(class, registered, true) ? message.text_of(class, registered) : NULL;
    if (!said || !CFStringGetCString(said, text, (CFIndex)bytes, kCFStringEncodingUTF8))
        snprintf(text, bytes, "unknown");
}

void ane_banner(char *text, size_t bytes) {
    Class info = dlopen(FRAMEWORK_PATH, RTLD_NOW) ? (Class)objc_getClass("_ANEDeviceInfo") : NULL;
    if (!info) {
        snprintf(text, bytes, "no Neural Engine's framework that would say what chip this is");
        return;
    }
    void *pool = objc_autoreleasePoolPush();
    char type[32], build[64], cores[32] = "unknown";
    say(info, "aneArchitectureType", type, sizeof type);
    say(info, "buildVersion", build, sizeof build);
    SEL count = sel_registerName("numANECores");
    if (has_method(info, count, true))
        snprintf(cores, sizeof cores, "%u", message.number_of(info, count));
    snprintf(text, bytes, "Neural Engine: architecture %s, cores %s, build %s", type, cores, build);
    objc_autoreleasePoolPop(pool);
}
