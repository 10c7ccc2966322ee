/* What each operation of a program takes and gives, and the rules of the hardware. */
#include <string.h>

#include "program.h"

size_t type_elements(const struct Type *type) {
    size_t elements = 1;
    for (int i = 0; i < type->axes; i++)
        elements *= (size_t)type->dims[i];
    return elements;
}

static const struct Type *operand(const struct MilProgram *program, const struct Statement *statement, int index) {
    return &program->values[statement->operands[index]].type;
}

static bool infer_slice(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                        struct Problem *why) {
    const struct Type *from = operand(program, s, 0);
    if (s->list_lengths[0] != from->axes || s->list_lengths[1] != from->axes)
        return problem(why, "begin and size need one number for each of %d axes", from->axes);
    *type = *from;
    for (int i = 0; i < from->axes; i++) {
        int begin = s->lists[0][i], size = s->lists[1][i];
        if (begin < 0 || size < 1 || begin > from->dims[i] - size)
            return problem(why, "%d numbers from %d on are not within the %d of axis %d", size, begin, from->dims[i],
                           i);
        type->dims[i] = size;
    }
    return true;
}

static bool infer_reshape(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                          struct Problem *why) {
    const struct Type *from = operand(program, s, 0);
    size_t elements = type_elements(from), left = elements;
    type->element = from->element;
    type->axes = s->list_lengths[0];
    for (int i = 0; i < type->axes; i++) {
        int size = s->lists[0][i];
        if (size < 1 || left % (size_t)size != 0)
            return problem(why, "%zu elements cannot have this shape", elements);
        left /= (size_t)size;
        type->dims[i] = size;
    }
    return left == 1 || problem(why, "%zu elements cannot have this shape", elements);
}

static bool infer_transpose(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                            struct Problem *why) {
    const struct Type *from = operand(program, s, 0);
    if (s->list_lengths[0] != from->axes)
        return problem(why, "perm needs one number for each of %d axes", from->axes);
    unsigned seen = 0;
    *type = *from;
    for (int i = 0; i < from->axes; i++) {
        int axis = s->lists[0][i];
        if (axis < 0 || axis >= from->axes || (seen >> axis & 1))
            return problem(why, "perm is no permutation of %d axes", from->axes);
        seen |= 1u << axis;
        type->dims[i] = from->dims[axis];
    }
    return true;
}

static bool infer_matmul(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                         struct Problem *why) {
    const struct Type *left = operand(program, s, 0), *right = operand(program, s, 1);
    int axes = left->axes;
    if (axes < 2 || right->axes != axes)
        return problem(why, "matmul needs two tensors with the same number of axes, two at least");
    for (int i = 0; i < axes - 2; i++)
        if (left->dims[i] != right->dims[i])
            return problem(why, "the factors have %d and %d matrices along axis %d", left->dims[i], right->dims[i], i);
    const int *l = left->dims + axes - 2, *r = right->dims + axes - 2;
    int inner = l[!s->flags[0]], other = r[s->flags[1]];
    if (inner != other)
        return problem(why, "rows of %d numbers cannot be multiplied with columns of %d", inner, other);
    *type = *left;
    type->dims[axes - 2] = l[s->flags[0]];
    type->dims[axes - 1] = r[!s->flags[1]];
    return true;
}

static bool infer_pair(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                       struct Problem *why) {
    const struct Type *left = operand(program, s, 0), *right = operand(program, s, 1);
    if (left->axes == 0 && right->axes == 0)
        return problem(why, "one operand must be a tensor");
    *type = left->axes > 0 ? *left : *right;
    if (left->axes == 0 || right->axes == 0)
        return true;
    if (left->axes != right->axes)
        return problem(why, "the operands have %d and %d axes", left->axes, right->axes);
    for (int i = 0; i < left->axes; i++) {
        if (left->dims[i] != right->dims[i] && left->dims[i] != 1 && right->dims[i] != 1)
            return problem(why, "the operands have %d and %d numbers along axis %d", left->dims[i], right->dims[i], i);
        type->dims[i] = left->dims[i] > right->dims[i] ? left->dims[i] : right->dims[i];
    }
    return true;
}

static bool infer_same(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                       struct Problem *why) {
    (void)why;
    *type = *operand(program, s, 0);
    return true;
}

/* Negative axes count from the last; -1 for an axis that is not there. */
static int axis_of(int axis, const struct Type *type) {
    int counted = axis < 0 ? axis + type->axes : axis;
    return counted >= 0 && counted < type->axes ? counted : -1;
}

static bool infer_softmax(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                          struct Problem *why) {
    *type = *operand(program, s, 0);
    return axis_of(s->axis, type) >= 0 || problem(why, "there is no axis %d", s->axis);
}

static bool infer_sum(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                      struct Problem *why) {
    *type = *operand(program, s, 0);
    if (s->list_lengths[0] != 1 || !s->flags[0])
        return problem(why, "reduce_sum is only known for one axis, with keep_dims");
    int axis = axis_of(s->lists[0][0], type);
    if (axis < 0)
        return problem(why, "there is no axis %d", s->lists[0][0]);
    type->dims[axis] = 1;
    return true;
}

static bool infer_concat(const struct MilProgram *program, const struct Statement *s, struct Type *type,
                         struct Problem *why) {
    *type = *operand(program, s, 0);
    int axis = axis_of(s->axis, type);
    if (axis < 0)
        return problem(why, "there is no axis %d", s->axis);
    if (s->flags[0])
        return problem(why, "concat is only known without interleave");
    for (int i = 1; i < s->operand_count; i++) {
        const struct Type *next = operand(program, s, i);
        if (next->axes != type->axes)
            return problem(why, "the values have %d and %d axes", type->axes, next->axes);
        for (int j = 0; j < type->axes; j++)
            if (j != axis && next->dims[j] != type->dims[j])
                return problem(why, "the values have %d and %d numbers along axis %d", type->dims[j], next->dims[j], j);
        if (next->dims[axis] > MOST_ELEMENTS - type->dims[axis])
            return problem(why, "the result is too large");
        type->dims[axis] += next->dims[axis];
    }
    return true;
}

const struct OperationRow OPERATION_TABLE[OPERATIONS] = {
    [SLICE] = {"slice_by_size", {{"x", TENSOR, 0}, {"begin", LIST, 0}, {"size", LIST, 1}}, infer_slice},
    [RESHAPE] = {"reshape", {{"x", TENSOR, 0}, {"shape", LIST, 0}}, infer_reshape},
    [TRANSPOSE] = {"transpose", {{"x", TENSOR, 0}, {"perm", LIST, 0}}, infer_transpose},
    [MATMUL] = {"matmul", {{"x", TENSOR, 0}, {"y", TENSOR, 1}, {"transpose_x", FLAG, 0}, {"transpose_y", FLAG, 1}},
                infer_matmul},
    [MUL] = {"mul", {{"x", SUMMAND, 0}, {"y", SUMMAND, 1}}, infer_pair},
    [ADD] = {"add", {{"x", SUMMAND, 0}, {"y", SUMMAND, 1}}, infer_pair},
    [SUB] = {"sub", {{"x", SUMMAND, 0}, {"y", SUMMAND, 1}}, infer_pair},
    [SIGMOID] = {"sigmoid", {{"x", TENSOR, 0}}, infer_same},
    [SOFTMAX] = {"softmax", {{"x", TENSOR, 0}, {"axis", INTEGER, 0}}, infer_softmax},
    [REDUCE_SUM] = {"reduce_sum", {{"x", TENSOR, 0}, {"axes", LIST, 0}, {"keep_dims", FLAG, 0}}, infer_sum},
    [CONCAT] = {"concat", {{"values", TENSORS, 0}, {"axis", INTEGER, 0}, {"interleave", FLAG, 0}}, infer_concat},
};

const char *operation_refused(const char *name) {
    static const char *const REFUSED[][2] = {
        {"tile", "crashes the compiler: every head needs keys and values of its own"},
        {"scaled_dot_product_attention", "ignores its mask"},
        {"conv", "needs weights that are known when it is compiled"},
        {"cast", "is not known to M1 and M2; surfaces hold halves already"},
        {"rsqrt", "is not known to M1"},
        {"pow", "is not known to M1"},
        {"gelu", "is no operation of the hardware"},
    };
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        if (strcmp(name, REFUSED[i][0]) == 0)
            return REFUSED[i][1];
    return NULL;
}

/* The rules: reports of users of the hardware, none from its maker. */

enum { CONTRACTION = 32, LEAST_CHANNELS = 128, LEAST_COLUMNS = 16, MOST_WEIGHTS = 5 };

/* Names of values for which zeros come back. */
static const char *const HARMFUL[] = {"var", "diff", "mean", "std", "eps", "x", "y", "mul", "add", "rsqrt", "c", "C"};

static bool names_accepted(const struct MilProgram *program, struct Problem *why) {
    for (int i = 0; i < program->value_count; i++)
        for (size_t j = 0; j < sizeof HARMFUL / sizeof *HARMFUL; j++)
            if (strcmp(program->values[i].name, HARMFUL[j]) == 0)
                return problem(why, "%s: a value with the name %s gives zeros", program->name, HARMFUL[j]);
    return true;
}

static bool surface_accepted(const struct MilProgram *program, int index, struct Problem *why) {
    const struct Value *value = &program->values[index];
    const struct Type *type = &value->type;
    if (type->element != TYPE_FP16 || type->axes != 4 || type->dims[0] != 1 || type->dims[2] != 1)
        return problem(why, "%s: %s must be halves of the shape [1, channels, 1, columns]", program->name, value->name);
    if (type->dims[1] < LEAST_CHANNELS)
        return problem(why, "%s: %s has %d channels, fewer than %d fail when the program runs", program->name,
                       value->name, type->dims[1], LEAST_CHANNELS);
    if (type->dims[3] < LEAST_COLUMNS || type->dims[3] % LEAST_COLUMNS != 0)
        return problem(why, "%s: %s has %d columns, which must be a multiple of %d", program->name, value->name,
                       type->dims[3], LEAST_COLUMNS);
    return true;
}

/* From the input by slices and reshapes alone. */
static bool packed(const struct MilProgram *program, int index) {
    for (;;) {
        const struct Value *value = &program->values[index];
        if (value->statement < 0)
            return !value->constant;
        const struct Statement *statement = &program->statements[value->statement];
        if (statement->operation != SLICE && statement->operation != RESHAPE)
            return false;
        index = statement->operands[0];
    }
}

static bool matmul_accepted(const struct MilProgram *program, const struct Statement *s, int *weights,
                            struct Problem *why) {
    const struct Type *left = operand(program, s, 0);
    int inner = left->dims[left->axes - (s->flags[0] ? 2 : 1)];
    if (inner % CONTRACTION != 0)
        return problem(why, "%s, line %d: sums over %d numbers come out as zero, the number must be a multiple of %d",
                       program->name, s->line, inner, CONTRACTION);
    const struct Type *right = operand(program, s, 1);
    bool one = true;
    for (int i = 0; i < right->axes - 2; i++)
        one = one && right->dims[i] == 1;
    if (one && packed(program, s->operands[1]) && ++*weights > MOST_WEIGHTS)
        return problem(why, "%s: more than %d packed weights in one program are refused", program->name, MOST_WEIGHTS);
    return true;
}

static bool along_last(const struct MilProgram *program, const struct Statement *s, int axis, struct Problem *why) {
    const struct Type *type = operand(program, s, 0);
    return axis_of(axis, type) == type->axes - 1 ||
           problem(why, "%s, line %d: %s works along the last axis only", program->name, s->line,
                   OPERATION_TABLE[s->operation].name);
}

static bool softmax_accepted(const struct MilProgram *program, const struct Statement *s, struct Problem *why) {
    const struct Type *type = operand(program, s, 0);
    int length = type->dims[type->axes - 1];
    if (!along_last(program, s, s->axis, why))
        return false;
    return (length & (length - 1)) == 0 ||
           problem(why, "%s, line %d: softmax over %d numbers is refused, the number must be a power of two",
                   program->name, s->line, length);
}

/* A number per channel, made as wide as the other operand. */
static bool pair_accepted(const struct MilProgram *program, const struct Statement *s, struct Problem *why) {
    const struct Type *result = &program->values[s->result].type;
    for (int i = 0; i < 2; i++) {
        const struct Type *type = operand(program, s, i);
        if (type->axes == 4 && type->dims[1] > 1 && type->dims[2] == 1 && type->dims[3] == 1 &&
            type_elements(result) > type_elements(type))
            return problem(why, "%s, line %d: an operand [1, channels, 1, 1] that is broadcast gives zeros",
                           program->name, s->line);
    }
    return true;
}

static bool concat_accepted(const struct MilProgram *program, const struct Statement *s, struct Problem *why) {
    return axis_of(s->axis, operand(program, s, 0)) == 1 ||
           problem(why, "%s, line %d: concat works along the channels, axis 1, only", program->name, s->line);
}

static bool statement_accepted(const struct MilProgram *program, const struct Statement *s, int *weights,
                               struct Problem *why) {
    switch (s->operation) {
    case MATMUL: return matmul_accepted(program, s, weights, why);
    case SOFTMAX: return softmax_accepted(program, s, why);
    case REDUCE_SUM: return along_last(program, s, s->lists[0][0], why);
    case CONCAT: return concat_accepted(program, s, why);
    case MUL:
    case ADD:
    case SUB: return pair_accepted(program, s, why);
    default: return true;
    }
}

bool hardware_accepts(const struct MilProgram *program, struct Problem *why) {
    if (program->input_count != 1 || program->output_count != 1)
        return problem(why, "%s: it must have one input and one output, since more fail or are exchanged",
                       program->name);
    if (!names_accepted(program, why) || !surface_accepted(program, program->inputs[0], why) ||
        !surface_accepted(program, program->outputs[0], why))
        return false;
    int weights = 0;
    for (int i = 0; i < program->statement_count; i++)
        if (!statement_accepted(program, &program->statements[i], &weights, why))
            return false;
    return true;
}
