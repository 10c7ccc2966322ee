/* Runs MIL text on the CPU as the Neural Engine would: halves between all operations, subnormal ones flushed to zero,
 * sums in float. A text that the hardware is reported to refuse, or to compute wrongly, is refused.
 *
 * The numbers of all values lie in one scratch memory, the same for all programs; a reshape, and a slice that is one
 * piece of it, are where their operand is. Slices of the input are converted as they are taken. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "elementary.h"
#include "fp16.h"
#include "gemm.h"
#include "packing.h"
#include "program.h"

/* Numbers per part of a loop; partial sums of a vector; the tile of a transposition. */
enum { PIECE = 16384, LANES = 16, TILE = 32 };
enum { MOST_LOADS = 100 }; /* that a process is reported to survive; here of an executor */

struct Sim {
    struct Pool *pool;
    real *scratch;
    size_t room;
    int loads;
    _Atomic uint64_t overflows;
};

struct Surface {
    uint16_t *halves;
    size_t bytes;
    bool locked, writing;
};

struct Loaded {
    struct MilProgram program;
    size_t *offsets;  /* of each value, in the scratch memory or in `constants` */
    real *constants;  /* all constant tensors */
    bool whole_input; /* an operation other than a slice uses it */
    bool *to_softmax; /* of each value: minus infinity is meant where a mask makes it */
};

struct Bound {
    struct Loaded *loaded;
    struct Surface *input, *output;
};

/* A statement as its loops see it. */
struct Job {
    struct Sim *sim;
    const struct Loaded *loaded;
    const struct Statement *statement;
    const struct Type *type; /* of the result */
    const uint16_t *input;
    real *into;
    const real *from[2];
    size_t rows, length, rows_per_part; /* of the result: numbers along the last axis */
    void (*row)(const struct Job *job, size_t row);
};

static const real FLUSHED = 0x1p-14f, OVERFLOWED = 65520;

/* Numbers become halves, subnormal ones zero. */
static void settle(const struct Job *job, real *values, size_t count) {
    bool below = !job->loaded->to_softmax[job->statement->result];
    uint32_t overflows = 0;
    for (size_t i = 0; i < count; i++) {
        real size = values[i] < 0 && below ? -values[i] : values[i];
        overflows += size >= OVERFLOWED && size < (real)INFINITY;
    }
    if (overflows > 0)
        atomic_fetch_add_explicit(&job->sim->overflows, overflows, memory_order_relaxed);
#ifdef ANE_DOUBLE
    for (size_t i = 0; i < count; i++)
        values[i] = float_of(half_of((float)values[i]));
#else
    round_to_half(values, count);
#endif
    for (size_t i = 0; i < count; i++)
        values[i] = values[i] < FLUSHED && values[i] > -FLUSHED ? 0 * values[i] : values[i];
}

static void take_halves(real *values, const uint16_t *halves, size_t count) {
    reals_of_halves(values, halves, count);
    for (size_t i = 0; i < count; i++)
        values[i] = values[i] < FLUSHED && values[i] > -FLUSHED ? 0 * values[i] : values[i];
}

/* Four axes, the first ones 1 where there are fewer. */
static void spread(const struct Type *type, size_t dims[MOST_AXES]) {
    for (int i = 0; i < MOST_AXES; i++) {
        int axis = i - (MOST_AXES - type->axes);
        dims[i] = axis < 0 ? 1 : (size_t)type->dims[axis];
    }
}

static void strides_of(const size_t dims[MOST_AXES], size_t strides[MOST_AXES]) {
    strides[MOST_AXES - 1] = 1;
    for (int i = MOST_AXES - 2; i >= 0; i--)
        strides[i] = strides[i + 1] * dims[i + 1];
}

static const struct Type *type_of(const struct Job *job, int operand) {
    return &job->loaded->program.values[job->statement->operands[operand]].type;
}

/* Where a row of the result begins in a value with these strides; 0 for an axis along which it is repeated. */
static size_t row_offset(const struct Job *job, size_t row, const size_t strides[MOST_AXES]) {
    size_t dims[MOST_AXES], offset = 0;
    spread(job->type, dims);
    for (int i = MOST_AXES - 2; i >= 0; i--) {
        offset += row % dims[i] * strides[i];
        row /= dims[i];
    }
    return offset;
}

/* Rows of results. */

static void slice_row(const struct Job *job, size_t row) {
    const struct Type *type = type_of(job, 0);
    size_t dims[MOST_AXES], strides[MOST_AXES], begin = 0;
    spread(type, dims);
    strides_of(dims, strides);
    for (int i = 0; i < type->axes; i++)
        begin += (size_t)job->statement->lists[0][i] * strides[i + MOST_AXES - type->axes];
    begin += row_offset(job, row, strides);
    real *into = job->into + row * job->length;
    if (job->input != NULL)
        take_halves(into, job->input + begin, job->length);
    else
        memcpy(into, job->from[0] + begin, job->length * sizeof *into);
}

static void transpose_row(const struct Job *job, size_t row) {
    const struct Type *type = type_of(job, 0);
    size_t dims[MOST_AXES], strides[MOST_AXES], permuted[MOST_AXES];
    spread(type, dims);
    strides_of(dims, strides);
    int missing = MOST_AXES - type->axes;
    for (int i = 0; i < MOST_AXES; i++)
        permuted[i] = i < missing ? 0 : strides[missing + job->statement->lists[0][i - missing]];
    const real *from = job->from[0] + row_offset(job, row, permuted);
    real *into = job->into + row * job->length;
    for (size_t i = 0; i < job->length; i++)
        into[i] = from[i * permuted[MOST_AXES - 1]];
}

static void pair_row(const struct Job *job, size_t row) {
    const real *at[2];
    size_t step[2];
    for (int i = 0; i < 2; i++) {
        const struct Value *value = &job->loaded->program.values[job->statement->operands[i]];
        size_t dims[MOST_AXES], strides[MOST_AXES];
        spread(&value->type, dims);
        strides_of(dims, strides);
        for (int axis = 0; axis < MOST_AXES; axis++)
            strides[axis] = dims[axis] == 1 ? 0 : strides[axis];
        at[i] = job->from[i] + row_offset(job, row, strides);
        step[i] = strides[MOST_AXES - 1];
    }
    real *into = job->into + row * job->length;
    size_t length = job->length;
    if (step[0] == 1 && step[1] == 1) { /* the usual case by itself, for vectors */
        switch (job->statement->operation) {
        case MUL: for (size_t i = 0; i < length; i++) into[i] = at[0][i] * at[1][i]; break;
        case ADD: for (size_t i = 0; i < length; i++) into[i] = at[0][i] + at[1][i]; break;
        default: for (size_t i = 0; i < length; i++) into[i] = at[0][i] - at[1][i]; break;
        }
    } else {
        switch (job->statement->operation) {
        case MUL: for (size_t i = 0; i < length; i++) into[i] = at[0][i * step[0]] * at[1][i * step[1]]; break;
        case ADD: for (size_t i = 0; i < length; i++) into[i] = at[0][i * step[0]] + at[1][i * step[1]]; break;
        default: for (size_t i = 0; i < length; i++) into[i] = at[0][i * step[0]] - at[1][i * step[1]]; break;
        }
    }
    settle(job, into, length);
}

static void sigmoid_row(const struct Job *job, size_t row) {
    const real *from = job->from[0] + row * job->length;
    real *into = job->into + row * job->length;
    for (size_t i = 0; i < job->length; i++)
        into[i] = real_sigmoid(from[i]);
    settle(job, into, job->length);
}

static real row_sum(const real *values, size_t count) {
    real lanes[LANES] = {0}, sum = 0;
    size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] += values[i + lane];
    for (size_t i = whole; i < count; i++)
        sum += values[i];
    for (size_t lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

static real row_most(const real *values, size_t count) {
    real lanes[LANES], most = values[0];
    size_t whole = count - count % LANES;
    for (size_t lane = 0; lane < LANES; lane++)
        lanes[lane] = most;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    for (size_t i = whole; i < count; i++)
        most = values[i] > most ? values[i] : most;
    for (size_t lane = 0; lane < LANES; lane++)
        most = lanes[lane] > most ? lanes[lane] : most;
    return most;
}

static void softmax_row(const struct Job *job, size_t row) {
    const real *from = job->from[0] + row * job->length;
    real *into = job->into + row * job->length;
    real most = row_most(from, job->length);
    for (size_t i = 0; i < job->length; i++)
        into[i] = real_exp(from[i] - most);
    real inverse = 1 / row_sum(into, job->length);
    for (size_t i = 0; i < job->length; i++)
        into[i] *= inverse;
    settle(job, into, job->length);
}

static void sum_row(const struct Job *job, size_t row) {
    const struct Type *type = type_of(job, 0);
    size_t length = (size_t)type->dims[type->axes - 1];
    job->into[row] = row_sum(job->from[0] + row * length, length);
    settle(job, job->into + row, 1);
}

static void settle_row(const struct Job *job, size_t row) {
    settle(job, job->into + row * job->length, job->length);
}

static void run_part(void *context, int part) {
    const struct Job *job = context;
    size_t begin = (size_t)part * job->rows_per_part, end = begin + job->rows_per_part;
    for (size_t row = begin; row < end && row < job->rows; row++)
        job->row(job, row);
}

static void run_rows(struct Job *job, void (*row)(const struct Job *, size_t)) {
    job->row = row;
    job->rows_per_part = PIECE / job->length > 0 ? PIECE / job->length : 1;
    pool_run(job->sim->pool, (int)((job->rows + job->rows_per_part - 1) / job->rows_per_part), run_part, job);
}

/* Operations on matrices: the last two axes. */

static void swap_matrix(void *context, int matrix) {
    const struct Job *job = context;
    size_t columns = job->length, rows = (size_t)job->type->dims[job->type->axes - 2];
    const real *from = job->from[0] + (size_t)matrix * rows * columns;
    real *into = job->into + (size_t)matrix * rows * columns;
    for (size_t i0 = 0; i0 < rows; i0 += TILE)
        for (size_t j0 = 0; j0 < columns; j0 += TILE)
            for (size_t i = i0; i < i0 + TILE && i < rows; i++)
                for (size_t j = j0; j < j0 + TILE && j < columns; j++)
                    into[i * columns + j] = from[j * rows + i];
}

static void run_transpose(struct Job *job) {
    const int *perm = job->statement->lists[0];
    int axes = job->type->axes;
    bool swap = axes >= 2 && perm[axes - 2] == axes - 1;
    for (int i = 0; i < axes - 2; i++)
        swap = swap && perm[i] == i;
    if (!swap) {
        run_rows(job, transpose_row);
        return;
    }
    pool_run(job->sim->pool, (int)(job->rows / (size_t)job->type->dims[axes - 2]), swap_matrix, job);
}

static void multiply(const struct Job *job, struct Pool *pool, size_t matrix) {
    const struct Type *left = type_of(job, 0), *right = type_of(job, 1);
    const bool *flags = job->statement->flags;
    const int *l = left->dims + left->axes - 2, *r = right->dims + right->axes - 2;
    const int m = l[flags[0]], k = l[!flags[0]], n = r[!flags[1]];
    gemm(pool, flags[0], flags[1], m, n, k, 1, job->from[0] + matrix * (size_t)m * (size_t)k, l[1],
         job->from[1] + matrix * (size_t)k * (size_t)n, r[1], 0, job->into + matrix * (size_t)m * (size_t)n, n);
}

static void multiply_one(void *context, int matrix) {
    const struct Job *job = context;
    multiply(job, NULL, (size_t)matrix);
    size_t rows = (size_t)job->type->dims[job->type->axes - 2];
    for (size_t row = 0; row < rows; row++)
        settle_row(job, (size_t)matrix * rows + row);
}

static void run_matmul(struct Job *job) {
    size_t matrices = job->rows / (size_t)job->type->dims[job->type->axes - 2];
    if (matrices >= (size_t)pool_threads(job->sim->pool)) {
        pool_run(job->sim->pool, (int)matrices, multiply_one, job);
        return;
    }
    for (size_t i = 0; i < matrices; i++)
        multiply(job, job->sim->pool, i);
    run_rows(job, settle_row);
}

static real *value_at(const struct Sim *sim, const struct Loaded *loaded, int index) {
    bool constant = loaded->program.values[index].constant;
    return (constant ? loaded->constants : sim->scratch) + loaded->offsets[index];
}

/* Along the channels: all that comes after axis 1 is one piece. */
static void run_concat(struct Job *job) {
    size_t outer = (size_t)job->type->dims[0], done = 0, whole = type_elements(job->type) / outer;
    for (int i = 0; i < job->statement->operand_count; i++) {
        const real *from = value_at(job->sim, job->loaded, job->statement->operands[i]);
        size_t part = type_elements(type_of(job, i)) / outer;
        for (size_t j = 0; j < outer; j++)
            memcpy(job->into + j * whole + done, from + j * part, part * sizeof *from);
        done += part;
    }
}

/* A slice whose numbers are one piece of its operand's. */
static bool contiguous(const struct MilProgram *program, const struct Statement *statement, size_t *offset) {
    const struct Type *from = &program->values[statement->operands[0]].type;
    bool cut = false;
    *offset = 0;
    for (int i = 0; i < from->axes; i++) {
        if (cut && statement->lists[1][i] != from->dims[i])
            return false;
        cut = cut || statement->lists[1][i] != 1;
        *offset = *offset * (size_t)from->dims[i] + (size_t)statement->lists[0][i];
    }
    return true;
}

static bool in_place(const struct MilProgram *program, const struct Statement *statement, size_t *offset) {
    *offset = 0;
    if (program->values[statement->operands[0]].constant)
        return false;
    if (statement->operation == RESHAPE)
        return true;
    return statement->operation == SLICE && statement->operands[0] != program->inputs[0] &&
           contiguous(program, statement, offset);
}

static void run_statement(struct Sim *sim, const struct Bound *bound, const struct Statement *statement) {
    const struct Loaded *loaded = bound->loaded;
    const struct Type *type = &loaded->program.values[statement->result].type;
    struct Job job = {.sim = sim, .loaded = loaded, .statement = statement, .type = type,
                      .into = value_at(sim, loaded, statement->result), .length = (size_t)type->dims[type->axes - 1]};
    job.rows = type_elements(type) / job.length;
    for (int i = 0; i < statement->operand_count && i < 2; i++)
        job.from[i] = value_at(sim, loaded, statement->operands[i]);
    size_t offset;
    switch (statement->operation) {
    case SLICE:
        job.input = statement->operands[0] == loaded->program.inputs[0] ? bound->input->halves : NULL;
        if (!in_place(&loaded->program, statement, &offset))
            run_rows(&job, slice_row);
        break;
    case RESHAPE:
        if (!in_place(&loaded->program, statement, &offset))
            memcpy(job.into, job.from[0], sizeof *job.into * type_elements(type));
        break;
    case TRANSPOSE: run_transpose(&job); break;
    case MATMUL: run_matmul(&job); break;
    case MUL:
    case ADD:
    case SUB: run_rows(&job, pair_row); break;
    case SIGMOID: run_rows(&job, sigmoid_row); break;
    case SOFTMAX: run_rows(&job, softmax_row); break;
    case REDUCE_SUM: run_rows(&job, sum_row); break;
    case CONCAT: run_concat(&job); break;
    case OPERATIONS: break;
    }
}

/* The executor. */

/* Gives every value its place, and returns how many numbers are in the scratch memory. */
static size_t place(struct Loaded *loaded) {
    const struct MilProgram *program = &loaded->program;
    size_t scratch = 0, constants = 0, within;
    for (int i = 0; i < program->value_count; i++) {
        const struct Value *value = &program->values[i];
        const struct Statement *maker = value->statement < 0 ? NULL : &program->statements[value->statement];
        size_t elements = value->constant && value->halves == NULL ? 1 : type_elements(&value->type);
        /* Rows of vectors begin at multiples of a cache line's 16 floats. */
        elements = (elements + 15) / 16 * 16;
        size_t *end = value->constant ? &constants : &scratch;
        if (maker != NULL && in_place(program, maker, &within)) {
            loaded->offsets[i] = loaded->offsets[maker->operands[0]] + within;
        } else {
            loaded->offsets[i] = *end;
            *end += elements;
        }
    }
    return scratch;
}

static void load_constants(struct Loaded *loaded) {
    const struct MilProgram *program = &loaded->program;
    size_t end = 0;
    for (int i = 0; i < program->value_count; i++)
        if (program->values[i].constant)
            end = loaded->offsets[i] + type_elements(&program->values[i].type);
    loaded->constants = need(end + 1, sizeof(real));
    for (int i = 0; i < program->value_count; i++) {
        const struct Value *value = &program->values[i];
        real *into = loaded->constants + loaded->offsets[i];
        if (!value->constant)
            continue;
        uint16_t scalar = half_of((float)value->number);
        take_halves(into, value->halves != NULL ? value->halves : &scalar,
                    value->halves != NULL ? type_elements(&value->type) : 1);
    }
}

static void unload(void *self, void *program) {
    struct Loaded *loaded = program;
    (void)self;
    program_free(&loaded->program);
    free(loaded->offsets);
    free(loaded->constants);
    free(loaded->to_softmax);
    free(loaded);
}

static void *load(void *self, const struct Source *source, struct Problem *why) {
    struct Sim *sim = self;
    if (sim->loads == MOST_LOADS)
        return problem(why, "more than %d programs in one process fail without a word", MOST_LOADS), NULL;
    struct Loaded *loaded = need(1, sizeof *loaded);
    const struct MilProgram *program = &loaded->program;
    if (!program_parse(&loaded->program, source, why) || !hardware_accepts(program, why)) {
        unload(sim, loaded);
        return NULL;
    }
    loaded->offsets = need((size_t)program->value_count, sizeof *loaded->offsets);
    loaded->to_softmax = need((size_t)program->value_count, sizeof *loaded->to_softmax);
    for (int i = 0; i < program->statement_count; i++) {
        const struct Statement *statement = &program->statements[i];
        if (statement->operation == SOFTMAX)
            loaded->to_softmax[statement->operands[0]] = true;
        for (int j = 0; j < statement->operand_count && statement->operation != SLICE; j++)
            loaded->whole_input = loaded->whole_input || statement->operands[j] == program->inputs[0];
    }
    size_t room = place(loaded);
    load_constants(loaded);
    if (room > sim->room) {
        free(sim->scratch);
        sim->scratch = need(room, sizeof *sim->scratch);
        sim->room = room;
    }
    sim->loads++;
    return loaded;
}

static void *surface(void *self, size_t bytes, struct Problem *why) {
    (void)self;
    if (bytes > MOST_SURFACE)
        return problem(why, "a surface of %zu bytes", bytes), NULL;
    struct Surface *made = need(1, sizeof *made);
    made->bytes = surface_bytes(bytes);
    made->halves = need(made->bytes, 1);
    return made;
}

static void release(void *self, void *released) {
    (void)self;
    free(((struct Surface *)released)->halves);
    free(released);
}

static void *lock(void *self, void *locked, bool write, struct Problem *why) {
    struct Surface *at = locked;
    (void)self;
    if (at->locked)
        return problem(why, "the surface is locked already"), NULL;
    at->locked = true;
    at->writing = write;
    return at->halves;
}

static bool unlock(void *self, void *locked, bool write, struct Problem *why) {
    struct Surface *at = locked;
    (void)self;
    if (!at->locked || at->writing != write)
        return problem(why, "the surface is not locked for %s", write ? "writing" : "reading");
    at->locked = false;
    return true;
}

static size_t value_bytes(const struct Loaded *loaded, int index) {
    return sizeof(uint16_t) * type_elements(&loaded->program.values[index].type);
}

static void *bind(void *self, void *program, void *input, void *output, struct Problem *why) {
    struct Loaded *loaded = program;
    struct Surface *in = input, *out = output;
    (void)self;
    if (in->bytes < value_bytes(loaded, loaded->program.inputs[0]) ||
        out->bytes < value_bytes(loaded, loaded->program.outputs[0]))
        return problem(why, "%s: a surface is smaller than the program's tensor", loaded->program.name), NULL;
    struct Bound *bound = need(1, sizeof *bound);
    *bound = (struct Bound){loaded, in, out};
    return bound;
}

static void unbind(void *self, void *binding) {
    (void)self;
    free(binding);
}

static bool run(void *self, void *binding, struct Problem *why) {
    struct Sim *sim = self;
    const struct Bound *bound = binding;
    const struct MilProgram *program = &bound->loaded->program;
    if (bound->input->locked || bound->output->locked)
        return problem(why, "%s: a surface is locked while the program runs", program->name);
    int input = program->inputs[0], output = program->outputs[0];
    if (bound->loaded->whole_input)
        take_halves(value_at(sim, bound->loaded, input), bound->input->halves,
                    type_elements(&program->values[input].type));
    for (int i = 0; i < program->statement_count; i++)
        run_statement(sim, bound, &program->statements[i]);
    halves_of_reals(bound->output->halves, value_at(sim, bound->loaded, output),
                    type_elements(&program->values[output].type));
    return true;
}

static void close_sim(void *self) {
    struct Sim *sim = self;
    free(sim->scratch);
    free(sim);
}

struct Executor sim_executor(struct Pool *pool) {
    struct Sim *sim = need(1, sizeof *sim);
    sim->pool = pool;
    return (struct Executor){"sim", sim, load, unload, surface, release, lock, unlock, bind, unbind, run, close_sim};
}

uint64_t sim_overflows(const struct Executor *executor) {
    return ((const struct Sim *)executor->self)->overflows;
}
