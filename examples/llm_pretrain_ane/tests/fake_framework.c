/* The runtime and the classes of the Neural Engine of fake.h. A program is what the simulator makes of the files that
 * lie where the compiler service looks for them, not of what is in memory. */
#include "fake.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "device.h"

typedef uintptr_t Word;
/* Under its real name, but with words for arguments: callers have the type of the method. More arguments are read than
   a caller may have passed, which the conventions of x86-64 and arm64 allow. */
Word fake_message(void *self, const char *selector, Word a, Word b, Word c, Word d, Word e, Word f,
                  Word g) __asm__("objc_msgSend");

/* ---- the runtime ---- */

struct objc_class {
    const char *name;
    const char *of_class[5], *of_object[7]; /* its methods */
};

static struct objc_class classes[] = {
    {"_ANEInMemoryModelDescriptor", {"modelWithMILText:weights:optionsPlist:"}, {NULL}},
    {"_ANEInMemoryModel",
     {"inMemoryModelWithDescriptor:"},
     {"hexStringIdentifier", "compileWithQoS:options:error:", "loadWithQoS:options:error:",
      "evaluateWithQoS:options:request:error:", "unloadWithQoS:error:"}},
    {"_ANEIOSurfaceObject", {"objectWithIOSurface:"}, {NULL}},
    {"_ANERequest",
     {"requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"},
     {NULL}},
    {"_ANEDeviceInfo", {"hasANE", "numANECores", "aneArchitectureType", "buildVersion"}, {NULL}},
};

static bool missing(const char *name) {
    char fault[120];
    snprintf(fault, sizeof fault, "missing %s", name);
    return fake_faulty(fault);
}

Class objc_getClass(const char *name) {
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(classes[i].name, name) == 0 && !missing(name))
            return &classes[i];
    return NULL;
}

/* One pointer for each name. */
SEL sel_registerName(const char *name) {
    enum { MOST = 32 };
    static const char *names[MOST];
    static int count;
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return (SEL)names[i];
    if (count == MOST)
        fail("sel_registerName: too many");
    names[count] = name;
    return (SEL)names[count++];
}

static Method find(const char *const *list, SEL selector) {
    for (; *list; list++)
        if (strcmp(*list, (const char *)selector) == 0)
            return missing(*list) ? NULL : (Method)list;
    return NULL;
}

Method class_getClassMethod(Class class, SEL selector) {
    return find(class->of_class, selector);
}

Method class_getInstanceMethod(Class class, SEL selector) {
    return find(class->of_object, selector);
}

/* ---- models ---- */

/* As others report it. */
#define INFERENCE_ERROR \
    "processRequest:model:qos:qIndex:modelStringID:options:returnValue:error:: ANEProgramProcessRequestDirect() " \
    "Failed with status=0x1d : statusType=0x9: Program Inference error"

enum { MOST_FILES = 8 };
struct State {
    enum { NEW, COMPILED, LOADED, UNLOADED } stage;
    char folder[1200];
    void *program, *input, *output, *binding; /* of the simulator */
    size_t sizes[2];
};

static struct Executor simulator;

static struct Executor *sim(void) {
    if (!simulator.load)
        simulator = sim_executor(pool_new(1));
    return &simulator;
}

/* Longer than any message of ours, and of the form of NSError: the text twice. */
static id description(const char *domain, int code, const char *text) {
    char words[1400];
    int length = snprintf(words, sizeof words,
                          "Error Domain=%s Code=%d \"%s\"\nUserInfo={NSLocalizedDescription=%s}", domain, code, text,
                          text);
    id error = fake_new(ERROR, words, (size_t)length), of = fake_new(STRING, domain, strlen(domain));
    error->number = code;
    fake_hold(error, of);
    CFRelease(of);
    return fake_autorelease(error);
}

static bool refuse(Word out, const char *domain, int code, const char *text) {
    if (out)
        *(id *)out = description(domain, code, text);
    return false;
}

static void check_call(const char *step, Word qos, Word options) {
    const char *expected = getenv("ANE_QOS") ? getenv("ANE_QOS") : "21";
    if ((uint32_t)qos != (uint32_t)atoi(expected))
        fake_complain("%s with QoS %u", step, (unsigned)qos);
    if (!fake_is((void *)options, DICTIONARY))
        fake_complain("%s without options", step);
}

static id describe(id text, id weights, id options) {
    fake_note("describe");
    if (!fake_is(text, DATA) || !fake_is(weights, DICTIONARY) || options) {
        fake_complain("the descriptor is not of data and a dictionary");
        return NULL;
    }
    if (fake_faulty("descriptor"))
        return NULL;
    for (size_t i = 0; i < weights->count; i += 2) {
        id entry = weights->items[i + 1];
        if (!fake_is(entry, DICTIONARY) || !fake_is(fake_value(entry, "data"), DATA) ||
            !fake_is(fake_value(entry, "offset"), NUMBER) || fake_value(entry, "offset")->number != 0 ||
            strncmp(weights->items[i]->bytes, "@model_path/", 12) != 0)
            fake_complain("the weights %s are not as wanted", weights->items[i]->bytes);
    }
    id descriptor = fake_autorelease(fake_new(DESCRIPTOR, NULL, 0));
    fake_hold(descriptor, text);
    fake_hold(descriptor, weights);
    return descriptor;
}

static id make_model(id descriptor) {
    fake_note("model");
    if (!fake_is(descriptor, DESCRIPTOR) || fake_faulty("model"))
        return NULL;
    id text = descriptor->items[0], weights = descriptor->items[1];
    uint32_t crc = 0;
    for (size_t i = 0; i < weights->count; i += 2) {
        id data = fake_value(weights->items[i + 1], "data");
        crc = checksum(crc, data->bytes, data->length);
    }
    char name[200]; /* as long as the real one, three SHA-256 */
    int length = snprintf(name, sizeof name, "%064X_%064X_%064X", checksum(0, text->bytes, text->length), crc, 0u);
    id model = fake_autorelease(fake_new(MODEL, name, (size_t)length));
    fake_hold(model, descriptor);
    model->state = need(1, sizeof *model->state);
    return model;
}

static id identifier(id model) {
    fake_note("identifier %s", model->bytes);
    if (fake_faulty("identifier"))
        return NULL;
    char longer[400];
    snprintf(longer, sizeof longer, "%s_%s", model->bytes, model->bytes);
    const char *name = fake_faulty("escape") ? "../escape" : fake_faulty("long") ? longer : model->bytes;
    return fake_autorelease(fake_new(STRING, name, strlen(name)));
}

/* The whole file as an object that the caller releases, or NULL. */
static id file_of(const char *folder, const char *path) {
    char full[1500];
    snprintf(full, sizeof full, "%s/%s", folder, path);
    FILE *file = fopen(full, "rb");
    struct stat what;
    id data = NULL;
    if (file && stat(full, &what) == 0) {
        data = fake_new(DATA, NULL, (size_t)what.st_size);
        if (fread(data->bytes, 1, data->length, file) != data->length)
            fake_complain("%s cannot be read", full);
    }
    if (file)
        fclose(file);
    return data;
}

/* The file as it is on disk, which must be what the descriptor has; held by `model`. */
static id same_file(id model, const char *path, id expected) {
    id found = file_of(model->state->folder, path);
    if (!found || found->length != expected->length || memcmp(found->bytes, expected->bytes, found->length) != 0)
        fake_complain("the file %s is not what the descriptor has", path);
    if (!found)
        return expected;
    fake_hold(model, found);
    CFRelease(found);
    return found;
}

static void check_folder(const char *folder) {
    struct stat what;
    if (lstat(folder, &what) != 0 || !S_ISDIR(what.st_mode) || (what.st_mode & 0777) != 0700)
        fake_complain("the folder %s is not there, or not ours alone", folder);
}

/* The service leaves a file of its own, as others report. */
static void leave_file(const char *folder) {
    char path[1300];
    snprintf(path, sizeof path, "%s/data", folder);
    FILE *file = fopen(path, "wx");
    if (!file || fputs("compiled", file) < 0 || fclose(file) != 0)
        fake_complain("%s cannot be written", path);
}

static bool compile(id model, Word qos, Word options, Word error) {
    struct State *state = model->state;
    fake_note("compile");
    check_call("compile", qos, options);
    if (state->stage != NEW)
        fake_complain("compiled twice");
    snprintf(state->folder, sizeof state->folder, "%s/%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", model->bytes);
    check_folder(state->folder);
    leave_file(state->folder);
    if (fake_faulty("compile"))
        return refuse(error, "com.apple.appleneuralengine.compiler", 1, "ANECCompile() FAILED");
    id weights = model->items[0]->items[1];
    struct Blob blobs[MOST_FILES];
    int count = 0;
    for (size_t i = 0; i < weights->count && count < MOST_FILES; i += 2) {
        const char *path = weights->items[i]->bytes + strlen("@model_path/");
        id data = same_file(model, path, fake_value(weights->items[i + 1], "data"));
        blobs[count++] = (struct Blob){path, data->bytes, data->length};
    }
    id text = same_file(model, "model.mil", model->items[0]->items[0]);
    struct Problem why = {""};
    struct Source source = {"a kernel", text->bytes, text->length, blobs, count};
    state->program = sim()->load(sim()->self, &source, &why);
    if (!state->program)
        return refuse(error, "com.apple.appleneuralengine.compiler", 1, why.text);
    state->stage = COMPILED;
    return true;
}

static bool load(id model, Word qos, Word options, Word error) {
    fake_note("load");
    check_call("load", qos, options);
    check_folder(model->state->folder);
    if (model->state->stage != COMPILED)
        fake_complain("loaded, but not compiled");
    if (fake_faulty("load"))
        return refuse(error, "com.apple.appleneuralengine", 2, "Program load failure (0x20004)");
    model->state->stage = LOADED;
    return true;
}

static bool unload(id model, Word qos, Word error) {
    fake_note("unload");
    if ((uint32_t)qos > 33 || model->state->stage != LOADED)
        fake_complain("unloaded, but not loaded");
    check_folder(model->state->folder);
    model->state->stage = UNLOADED;
    return !fake_faulty("unload") || refuse(error, "com.apple.appleneuralengine", 3, "Unload failure");
}

void fake_model_gone(struct State *state) {
    if (state->stage == LOADED)
        fake_complain("a model is gone that was not unloaded");
    if (state->binding)
        sim()->unbind(sim()->self, state->binding);
    if (state->input)
        sim()->release(sim()->self, state->input);
    if (state->output)
        sim()->release(sim()->self, state->output);
    if (state->program)
        sim()->unload(sim()->self, state->program);
    free(state);
}

/* ---- evaluations ---- */

static id wrap(id memory) {
    fake_note("object");
    if (!fake_is(memory, MEMORY))
        fake_complain("the object is not of a surface");
    if (!memory || fake_faulty("object"))
        return NULL;
    id object = fake_autorelease(fake_new(OBJECT, NULL, 0));
    fake_hold(object, memory);
    return object;
}

static bool one(id array, enum Kind kind) {
    return fake_is(array, ARRAY) && array->count == 1 && fake_is(array->items[0], kind);
}

static id request(id inputs, id input_indices, id outputs, id output_indices, id weights, id statistics, id procedure) {
    fake_note("request");
    if (!one(inputs, OBJECT) || !one(outputs, OBJECT) || !one(input_indices, NUMBER) || !one(output_indices, NUMBER) ||
        input_indices->items[0]->number != 0 || output_indices->items[0]->number != 0 || weights || statistics ||
        !fake_is(procedure, NUMBER) || procedure->number != 0) {
        fake_complain("the request is not of one input and one output");
        return NULL;
    }
    if (fake_faulty("request"))
        return NULL;
    id made = fake_autorelease(fake_new(REQUEST, NULL, 0));
    fake_hold(made, inputs);
    fake_hold(made, outputs);
    return made;
}

/* Surfaces of the simulator, which the others are copied to and from. */
static bool bound(struct State *state, const size_t *sizes, struct Problem *why) {
    struct Executor *executor = sim();
    if (state->binding && memcmp(state->sizes, sizes, sizeof state->sizes) == 0)
        return true;
    if (state->binding) {
        fake_complain("a model is used with surfaces of other sizes");
        return false;
    }
    memcpy(state->sizes, sizes, sizeof state->sizes);
    state->input = executor->surface(executor->self, sizes[0], why);
    state->output = executor->surface(executor->self, sizes[1], why);
    if (state->input && state->output)
        state->binding = executor->bind(executor->self, state->program, state->input, state->output, why);
    return state->binding != NULL;
}

static bool copy(void *surface, id memory, bool in, struct Problem *why) {
    struct Executor *executor = sim();
    void *base = executor->lock(executor->self, surface, in, why);
    if (!base)
        return false;
    memcpy(in ? base : memory->bytes, in ? memory->bytes : base, memory->length);
    return executor->unlock(executor->self, surface, in, why);
}

static bool evaluate(id model, Word qos, Word options, id made, Word error) {
    fake_note("evaluate");
    check_call("evaluate", qos, options);
    if (!fake_is(made, REQUEST) || model->state->stage != LOADED) {
        fake_complain("what is evaluated is not loaded");
        return false;
    }
    id input = made->items[0]->items[0]->items[0], output = made->items[1]->items[0]->items[0];
    if (input->locks || output->locks)
        fake_complain("evaluated while a surface is locked");
    if (fake_faulty("evaluate"))
        return refuse(error, "com.apple.appleneuralengine", 8, INFERENCE_ERROR);
    if (fake_faulty("umlauts")) {
        static char text[601];
        for (size_t i = 0; i + 1 < sizeof text; i++)
            text[i] = "\xc3\xa4"[i % 2];
        return refuse(error, "umlaut", 8, text);
    }
    struct Problem why = {""};
    struct State *state = model->state;
    const size_t sizes[] = {input->length, output->length};
    if (!bound(state, sizes, &why) || !copy(state->input, input, true, &why) ||
        !sim()->run(sim()->self, state->binding, &why) || !copy(state->output, output, false, &why))
        return refuse(error, "com.apple.appleneuralengine", 8, why.text);
    if (fake_faulty("zeros"))
        memset(output->bytes, 0, output->length);
    return true;
}

/* ---- messages ---- */

static id of_class(const struct objc_class *class, const char *selector, const Word *arguments) {
    if (find(class->of_class, (SEL)selector) == NULL)
        fake_complain("%s has no %s", class->name, selector);
    if (strncmp(selector, "modelWith", 9) == 0)
        return describe((id)arguments[0], (id)arguments[1], (id)arguments[2]);
    if (strncmp(selector, "inMemory", 8) == 0)
        return make_model((id)arguments[0]);
    if (strncmp(selector, "objectWith", 10) == 0)
        return wrap((id)arguments[0]);
    if (strncmp(selector, "requestWith", 11) == 0)
        return request((id)arguments[0], (id)arguments[1], (id)arguments[2], (id)arguments[3], (id)arguments[4],
                       (id)arguments[5], (id)arguments[6]);
    const char *text = strcmp(selector, "buildVersion") == 0 ? "26A1" : "h16g";
    return fake_autorelease(fake_new(STRING, text, strlen(text)));
}

static Word of_model(id model, const char *selector, const Word *arguments) {
    if (!fake_is(model, MODEL) || !find(classes[1].of_object, (SEL)selector)) {
        fake_complain("a message %s to what does not know it", selector);
        return 0;
    }
    if (strncmp(selector, "hex", 3) == 0)
        return (Word)identifier(model);
    if (strncmp(selector, "compile", 7) == 0)
        return compile(model, arguments[0], arguments[1], arguments[2]);
    if (strncmp(selector, "load", 4) == 0)
        return load(model, arguments[0], arguments[1], arguments[2]);
    if (strncmp(selector, "unload", 6) == 0)
        return unload(model, arguments[0], arguments[1]);
    return evaluate(model, arguments[0], arguments[1], (id)arguments[2], arguments[3]);
}

Word fake_message(void *self, const char *selector, Word a, Word b, Word c, Word d, Word e, Word f, Word g) {
    const Word arguments[] = {a, b, c, d, e, f, g};
    if (!self)
        return 0;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (self == &classes[i]) {
            if (strcmp(selector, "hasANE") == 0)
                return !fake_faulty("no-engine");
            if (strcmp(selector, "numANECores") == 0)
                return 16;
            return (Word)of_class(self, selector, arguments);
        }
    return of_model(self, selector, arguments);
}
