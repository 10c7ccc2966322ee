/* The kernels by programs of an executor: surfaces, staging, the test at the start, and falling back to the CPU.
 *
 * A program that has weights has an input surface per layer, so that weights are written only when they change.
 * Outputs, and the inputs of the two programs without weights, are shared by the layers, which take turns. The two
 * programs of attention's gradient work as a pair or not at all. */
#include "device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mil.h"
#include "model.h"
#include "packing.h"

/* Of a program's result from the CPU's, in units of the largest number: halves give at most 0.0012 up to the full
   model's size, and a wrong offset or a lost row more than 0.5. */
static const double LARGEST_ERROR = 0.02;

#define ONLY_TOGETHER "it works only together with %s"

struct Slot {
    enum ProgramId id;
    const struct Packing *packing;
    bool on;
    int layers; /* input surfaces */
    void *loaded, *output;
    void **inputs, **bindings;
    struct KernelReport report;
};

struct Device {
    struct Executor executor;
    struct Kernels cpu;
    struct Shape shape;
    struct Pool *pool;
    struct Timers *timers;
    struct Slot slots[PROGRAMS];
};

/* Surfaces and programs. */

static void slot_close(struct Device *device, struct Slot *slot) {
    struct Executor *e = &device->executor;
    for (int i = 0; i < slot->layers; i++) {
        if (slot->bindings[i] != NULL)
            e->unbind(e->self, slot->bindings[i]);
        if (slot->inputs[i] != NULL)
            e->release(e->self, slot->inputs[i]);
        slot->bindings[i] = slot->inputs[i] = NULL;
    }
    if (slot->output != NULL)
        e->release(e->self, slot->output);
    if (slot->loaded != NULL)
        e->unload(e->self, slot->loaded);
    slot->output = slot->loaded = NULL;
    slot->on = false;
}

static bool slot_open(struct Device *device, struct Slot *slot, enum Dialect dialect, struct Problem *why) {
    struct Executor *e = &device->executor;
    struct Source source = mil_new(slot->id, &device->shape, dialect);
    slot->loaded = e->load(e->self, &source, why);
    mil_free(&source);
    if (slot->loaded == NULL)
        return false;
    slot->output = e->surface(e->self, area_bytes(packing_whole(slot->packing, OUTPUT, &device->shape)), why);
    if (slot->output == NULL)
        return false;
    size_t bytes = area_bytes(packing_whole(slot->packing, INPUT, &device->shape));
    for (int i = 0; i < slot->layers; i++) {
        slot->inputs[i] = e->surface(e->self, bytes, why);
        if (slot->inputs[i] == NULL)
            return false;
        slot->bindings[i] = e->bind(e->self, slot->loaded, slot->inputs[i], slot->output, why);
        if (slot->bindings[i] == NULL)
            return false;
    }
    return true;
}

/* The pieces of the input whose values are not NULL; their order is the table's. */
static bool write_activations(struct Device *device, struct Slot *slot, int layer, const real *const *values,
                              struct Problem *why) {
    struct Executor *e = &device->executor;
    int stride = packing_whole(slot->packing, INPUT, &device->shape).columns;
    uint16_t *halves = e->lock(e->self, slot->inputs[layer], true, why);
    if (halves == NULL)
        return false;
    for (int i = 0; i < packing_count(slot->packing, INPUT); i++)
        if (slot->packing->pieces[INPUT][i].weight == ACTIVATION && values[i] != NULL)
            area_write(device->pool, halves, stride, packing_piece(slot->packing, INPUT, i, &device->shape), false,
                       values[i]);
    return e->unlock(e->self, slot->inputs[layer], true, why);
}

static bool write_weights(struct Device *device, struct Slot *slot, int layer, const struct LayerWeights *weights,
                          struct Problem *why) {
    const real *all[] = {[WQ] = weights->wq, [WK] = weights->wk, [WV] = weights->wv, [WO] = weights->wo,
                         [W1] = weights->w1, [W2] = weights->w2, [W3] = weights->w3};
    struct Executor *e = &device->executor;
    int stride = packing_whole(slot->packing, INPUT, &device->shape).columns;
    uint16_t *halves = e->lock(e->self, slot->inputs[layer], true, why);
    if (halves == NULL)
        return false;
    for (int i = 0; i < packing_count(slot->packing, INPUT); i++) {
        const struct Piece *piece = &slot->packing->pieces[INPUT][i];
        if (piece->weight != ACTIVATION)
            area_write(device->pool, halves, stride, packing_piece(slot->packing, INPUT, i, &device->shape),
                       piece->transposed, all[piece->weight]);
    }
    return e->unlock(e->self, slot->inputs[layer], true, why);
}

/* The pieces of the output whose place is not NULL. */
static bool read_results(struct Device *device, struct Slot *slot, real *const *results, struct Problem *why) {
    struct Executor *e = &device->executor;
    int stride = packing_whole(slot->packing, OUTPUT, &device->shape).columns;
    const uint16_t *halves = e->lock(e->self, slot->output, false, why);
    if (halves == NULL)
        return false;
    for (int i = 0; i < packing_count(slot->packing, OUTPUT); i++)
        if (results[i] != NULL)
            area_read(device->pool, halves, stride, packing_piece(slot->packing, OUTPUT, i, &device->shape),
                      results[i]);
    return e->unlock(e->self, slot->output, false, why);
}

/* Probabilities and their gradients, which are one block in both surfaces. */
static bool hand_over(struct Device *device, struct Problem *why) {
    struct Executor *e = &device->executor;
    struct Slot *from = &device->slots[SDPA_BWD1], *to = &device->slots[SDPA_BWD2];
    struct Area first = packing_piece(from->packing, OUTPUT, 1, &device->shape);
    size_t count = 2 * area_bytes(first) / sizeof(uint16_t);
    const uint16_t *source = e->lock(e->self, from->output, false, why);
    if (source == NULL)
        return false;
    uint16_t *target = e->lock(e->self, to->inputs[0], true, why);
    if (target != NULL)
        memcpy(target, source + (size_t)first.channel * (size_t)first.columns, count * sizeof *target);
    struct Problem second;
    bool unlocked = target != NULL && e->unlock(e->self, to->inputs[0], true, why);
    return e->unlock(e->self, from->output, false, unlocked ? why : &second) && unlocked;
}

static void count_io(struct Device *device, double begin) {
    if (device->timers != NULL)
        device->timers->seconds[PHASE_IO] += seconds() - begin;
}

static bool evaluate(struct Device *device, enum ProgramId id, int layer, const real *const *values,
                     real *const *results, struct Problem *why) {
    struct Executor *e = &device->executor;
    struct Slot *slot = &device->slots[id];
    double begin = seconds();
    bool fine = (id != SDPA_BWD2 || hand_over(device, why)) && write_activations(device, slot, layer, values, why);
    count_io(device, begin);
    if (!fine || !e->run(e->self, slot->bindings[layer], why))
        return false;
    begin = seconds();
    fine = read_results(device, slot, results, why);
    count_io(device, begin);
    return fine;
}

/* Falling back. */

static void turn_off(struct Device *device, enum ProgramId id, const char *reason) {
    struct Slot *slot = &device->slots[id];
    fprintf(stderr, "notice: %s: %s runs on the CPU: %s\n", device->executor.name, slot->packing->name, reason);
    slot->on = slot->report.on_device = false;
    snprintf(slot->report.problem, sizeof slot->report.problem, "%s", reason);
}

static void fall_back(struct Device *device, enum ProgramId id, const struct Problem *why) {
    turn_off(device, id, why->text);
    if (id != SDPA_BWD1 && id != SDPA_BWD2)
        return;
    enum ProgramId other = id == SDPA_BWD1 ? SDPA_BWD2 : SDPA_BWD1;
    struct Problem reason;
    problem(&reason, ONLY_TOGETHER, device->slots[id].packing->name);
    if (device->slots[other].on)
        turn_off(device, other, reason.text);
}

/* True when the device has done it; else the CPU must, from now on. */
static bool done(struct Device *device, enum ProgramId id, int layer, const real *const *values, real *const *results) {
    struct Problem why;
    if (!device->slots[id].on)
        return false;
    if (evaluate(device, id, layer, values, results, &why))
        return true;
    fall_back(device, id, &why);
    return false;
}

/* The table of kernels. */

static void stage(void *self, int layer, const struct LayerWeights *weights) {
    struct Device *device = self;
    device->cpu.stage(device->cpu.self, layer, weights);
    for (int i = 0; i < PROGRAMS; i++) {
        struct Slot *slot = &device->slots[i];
        struct Problem why;
        if (slot->on && slot->packing->weights && !write_weights(device, slot, layer, weights, &why))
            fall_back(device, slot->id, &why);
    }
}

static void attention(void *self, int layer, const real *xn, real *o, real *a, real *q, real *k, real *v) {
    struct Device *device = self;
    if (!done(device, SDPA_WO_FWD, layer, (const real *const[MOST_PIECES]){xn}, (real *const[]){o, a, q, k, v}))
        device->cpu.attention(device->cpu.self, layer, xn, o, a, q, k, v);
}

static void ffn(void *self, int layer, const real *x2n, const real *x2, real *x, real *h1, real *h3, real *u) {
    struct Device *device = self;
    if (!done(device, FFN_FUSED, layer, (const real *const[MOST_PIECES]){x2n, x2}, (real *const[]){x, h1, h3, u}))
        device->cpu.ffn(device->cpu.self, layer, x2n, x2, x, h1, h3, u);
}

static void ffn_back_w2(void *self, int layer, const real *df, real *du) {
    struct Device *device = self;
    if (!done(device, FFN_BWD_W2T, layer, (const real *const[MOST_PIECES]){df}, (real *const[]){du}))
        device->cpu.ffn_back_w2(device->cpu.self, layer, df, du);
}

static void ffn_back_w13(void *self, int layer, const real *dh1, const real *dh3, real *dx2n) {
    struct Device *device = self;
    if (!done(device, FFN_BWD_W13T, layer, (const real *const[MOST_PIECES]){dh1, dh3}, (real *const[]){dx2n}))
        device->cpu.ffn_back_w13(device->cpu.self, layer, dh1, dh3, dx2n);
}

static void wo_back(void *self, int layer, const real *dout, real *da) {
    struct Device *device = self;
    if (!done(device, WOT_BWD, layer, (const real *const[MOST_PIECES]){dout}, (real *const[]){da}))
        device->cpu.wo_back(device->cpu.self, layer, dout, da);
}

static void sdpa_back(void *self, const real *q, const real *k, const real *v, const real *da, real *dq, real *dk,
                      real *dv) {
    struct Device *device = self;
    if (!done(device, SDPA_BWD1, 0, (const real *const[MOST_PIECES]){q, k, v, da}, (real *const[]){dv, NULL, NULL}) ||
        !done(device, SDPA_BWD2, 0, (const real *const[MOST_PIECES]){NULL, NULL, q, k}, (real *const[]){dq, dk}))
        device->cpu.sdpa_back(device->cpu.self, q, k, v, da, dq, dk, dv);
}

static void qkv_back(void *self, int layer, const real *dq, const real *dk, const real *dv, real *dxn) {
    struct Device *device = self;
    if (!done(device, QKV_BWD, layer, (const real *const[MOST_PIECES]){dq, dk, dv}, (real *const[]){dxn}))
        device->cpu.qkv_back(device->cpu.self, layer, dq, dk, dv, dxn);
}

static void close_device(void *self) {
    struct Device *device = self;
    for (int i = 0; i < PROGRAMS; i++) {
        slot_close(device, &device->slots[i]);
        free(device->slots[i].inputs);
        free(device->slots[i].bindings);
    }
    device->executor.close(device->executor.self);
    if (device->cpu.close != NULL)
        device->cpu.close(device->cpu.self);
    free(device);
}

/* The test of each program at the start, against a cpu of its own, which knows weights of its own. */

struct Trial {
    struct Kernels cpu;
    struct Random random;
    real *weights;
    struct LayerWeights layer;
    real *values[MOST_PIECES], *results[MOST_PIECES], *expected[MOST_PIECES];
};

/* Uniform, with mean 0 and this standard deviation. */
static void fill(struct Random *random, real *values, size_t count, double deviation) {
    for (size_t i = 0; i < count; i++)
        values[i] = (real)((2 * random_uniform(random) - 1) * sqrt(3) * deviation);
}

static void trial_open(struct Trial *trial, const struct Shape *shape, struct Pool *pool) {
    size_t dim = (size_t)shape->dim, square = dim * dim, wide = dim * (size_t)shape->hidden;
    size_t most = (size_t)(shape->hidden > shape->dim ? shape->hidden : shape->dim) * (size_t)shape->seq;
    real *w = need(4 * square + 3 * wide, sizeof *w);
    trial->cpu = cpu_kernels(shape, pool);
    random_seed(&trial->random, 1);
    fill(&trial->random, w, 4 * square + 2 * wide, 1 / sqrt(shape->dim));
    fill(&trial->random, w + 4 * square + 2 * wide, wide, 1 / sqrt(shape->hidden));
    trial->weights = w;
    trial->layer = (struct LayerWeights){.wq = w, .wk = w + square, .wv = w + 2 * square, .wo = w + 3 * square,
                                         .w1 = w + 4 * square, .w3 = w + 4 * square + wide,
                                         .w2 = w + 4 * square + 2 * wide};
    trial->cpu.stage(trial->cpu.self, 0, &trial->layer);
    for (int i = 0; i < MOST_PIECES; i++) {
        trial->values[i] = need(most, sizeof(real));
        trial->results[i] = need(most, sizeof(real));
        trial->expected[i] = need(most, sizeof(real));
        fill(&trial->random, trial->values[i], most, 1);
    }
}

static void trial_close(struct Trial *trial) {
    trial->cpu.close(trial->cpu.self);
    free(trial->weights);
    for (int i = 0; i < MOST_PIECES; i++) {
        free(trial->values[i]);
        free(trial->results[i]);
        free(trial->expected[i]);
    }
}

/* What the program should give. values[0 .. 3] are q, k, v and da for both programs of attention's gradient. */
static void expect(struct Trial *trial, enum ProgramId id) {
    struct Kernels *cpu = &trial->cpu;
    real *const *in = trial->values, *const *out = trial->expected;
    switch (id) {
    case SDPA_WO_FWD: cpu->attention(cpu->self, 0, in[0], out[0], out[1], out[2], out[3], out[4]); break;
    case FFN_FUSED: cpu->ffn(cpu->self, 0, in[0], in[1], out[0], out[1], out[2], out[3]); break;
    case FFN_BWD_W2T: cpu->ffn_back_w2(cpu->self, 0, in[0], out[0]); break;
    case FFN_BWD_W13T: cpu->ffn_back_w13(cpu->self, 0, in[0], in[1], out[0]); break;
    case WOT_BWD: cpu->wo_back(cpu->self, 0, in[0], out[0]); break;
    case SDPA_BWD1: cpu->sdpa_back(cpu->self, in[0], in[1], in[2], in[3], out[1], out[2], out[0]); break;
    case SDPA_BWD2: cpu->sdpa_back(cpu->self, in[0], in[1], in[2], in[3], out[0], out[1], out[2]); break;
    case QKV_BWD: cpu->qkv_back(cpu->self, 0, in[0], in[1], in[2], out[0]); break;
    case PROGRAMS: break;
    }
}

static double error_of(const real *result, const real *expected, size_t count) {
    double largest = 0, error = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)result[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        error = difference <= error ? error : difference; /* NaN stays */
        if (isnan(error))
            return NAN;
    }
    return error / largest;
}

static bool slot_try(struct Device *device, struct Slot *slot, struct Trial *trial, struct Problem *why) {
    bool second = slot->id == SDPA_BWD2, first = slot->id == SDPA_BWD1;
    const real *values[MOST_PIECES] = {NULL};
    real *results[MOST_PIECES] = {NULL};
    int given = packing_count(slot->packing, INPUT), made = first ? 1 : packing_count(slot->packing, OUTPUT);
    for (int i = 0; i < given; i++)
        values[i] = !second ? trial->values[i] : i >= 2 ? trial->values[i - 2] : NULL;
    for (int i = 0; i < made; i++)
        results[i] = trial->results[i];
    if (slot->packing->weights && !write_weights(device, slot, 0, &trial->layer, why))
        return false;
    if (!evaluate(device, slot->id, 0, values, results, why))
        return false;
    expect(trial, slot->id);
    slot->report.error = 0;
    for (int i = 0; i < made; i++) {
        struct Area area = packing_piece(slot->packing, OUTPUT, i, &device->shape);
        double error = error_of(results[i], trial->expected[i], (size_t)area.rows * (size_t)area.columns);
        if (!(error <= slot->report.error))
            slot->report.error = error;
        if (!(error <= LARGEST_ERROR))
            return problem(why, "its %s is off by %.2g of the largest number", slot->packing->pieces[OUTPUT][i].name,
                           error);
    }
    return true;
}

/* In the newer dialect, then in the older one. */
static bool slot_start(struct Device *device, struct Slot *slot, struct Trial *trial, struct Problem *why) {
    slot->report.error = NAN;
    if (slot->id == SDPA_BWD2 && !device->slots[SDPA_BWD1].on)
        return problem(why, ONLY_TOGETHER, device->slots[SDPA_BWD1].packing->name);
    if (slot_open(device, slot, DIALECT_M3, why) && slot_try(device, slot, trial, why))
        return true;
    slot_close(device, slot);
    struct Problem older;
    if (slot_open(device, slot, DIALECT_M1, &older) && slot_try(device, slot, trial, &older))
        return true;
    slot_close(device, slot);
    struct Problem newer = *why;
    if (strcmp(newer.text, older.text) == 0)
        return false;
    return problem(why, "%.240s; as text for M1 and M2: %.230s", newer.text, older.text);
}

static bool start(struct Device *device, bool strict, struct Problem *why) {
    struct Trial trial;
    bool fine = true;
    trial_open(&trial, &device->shape, device->pool);
    for (int i = 0; i < PROGRAMS && fine; i++) {
        struct Slot *slot = &device->slots[i];
        struct Problem reason;
        slot->on = slot->report.on_device = slot_start(device, slot, &trial, &reason);
        if (slot->on)
            continue;
        if (strict)
            fine = problem(why, "%s: %.*s", slot->packing->name, (int)sizeof reason.text - 40, reason.text);
        else
            fall_back(device, slot->id, &reason);
    }
    trial_close(&trial);
    return fine;
}

bool device_kernels(struct Kernels *kernels, struct Executor executor, struct Kernels cpu, const struct Shape *shape,
                    struct Pool *pool, bool strict, struct Timers *timers, struct Problem *why) {
    struct Device *device = need(1, sizeof *device);
    *device = (struct Device){.executor = executor, .cpu = cpu, .shape = *shape, .pool = pool};
    for (int i = 0; i < PROGRAMS; i++) {
        struct Slot *slot = &device->slots[i];
        slot->id = (enum ProgramId)i;
        slot->packing = packing_of(slot->id);
        slot->report.kernel = slot->packing->name;
        slot->layers = slot->packing->weights ? shape->layers : 1;
        slot->inputs = need((size_t)slot->layers, sizeof *slot->inputs);
        slot->bindings = need((size_t)slot->layers, sizeof *slot->bindings);
    }
    if (!start(device, strict, why)) {
        device->cpu.close = NULL; /* still the caller's */
        close_device(device);
        return false;
    }
    device->timers = timers;
    *kernels = (struct Kernels){executor.name, device, stage, attention, ffn, ffn_back_w2, ffn_back_w13, wo_back,
                                sdpa_back, qkv_back, close_device};
    return true;
}

int device_reports(const struct Kernels *kernels, struct KernelReport *reports, int most) {
    const struct Device *device = kernels->self;
    for (int i = 0; i < PROGRAMS && i < most; i++)
        reports[i] = device->slots[i].report;
    return PROGRAMS;
}
