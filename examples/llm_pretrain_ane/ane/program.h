/* MIL text as a list of operations: what is in the text is checked in full, so that who runs the program need not.
 *
 * Of MIL only what the eight programs need is known; all else is refused with the line. The text may be hostile. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "device.h"

enum { MOST_AXES = 4, MOST_OPERANDS = 8, MOST_VALUES = 1024, VALUE_NAME = 64 };
/* Elements of all tensors of a program together. */
enum { MOST_ELEMENTS = 1 << 28 };

enum Element { TYPE_FP16, TYPE_FP32, TYPE_INT32, TYPE_UINT64, TYPE_BOOL, TYPE_STRING, ELEMENT_TYPES };

struct Type {
    enum Element element;
    int axes; /* 0: a scalar */
    int dims[MOST_AXES];
};

struct Value {
    char name[VALUE_NAME];
    struct Type type;
    int statement; /* that computes it, or -1: an input or a constant */
    bool constant;
    double number;          /* of a scalar constant */
    int list[MOST_AXES];    /* of a constant list of int32 */
    const uint16_t *halves; /* of a constant tensor, in its blob */
};

enum Operation { SLICE, RESHAPE, TRANSPOSE, MATMUL, MUL, ADD, SUB, SIGMOID, SOFTMAX, REDUCE_SUM, CONCAT, OPERATIONS };

struct Statement {
    enum Operation operation;
    int line, result;
    int operands[MOST_OPERANDS], operand_count; /* x and y, or the values */
    int lists[2][MOST_AXES], list_lengths[2];   /* begin, shape, perm or axes; size */
    int axis;
    bool flags[2]; /* transpose_x, keep_dims or interleave; transpose_y */
};

struct MilProgram {
    char name[VALUE_NAME];
    enum Dialect dialect;
    struct Value *values;
    struct Statement *statements;
    int value_count, statement_count;
    int inputs[MOST_OPERANDS], outputs[MOST_OPERANDS], input_count, output_count;
};

/* The constants' halves stay in the source's blobs. program_free also after false. */
bool program_parse(struct MilProgram *program, const struct Source *source, struct Problem *why);
void program_free(struct MilProgram *program);

size_t type_elements(const struct Type *type);
/* Refuses what the compiler or the hardware is reported to refuse or to compute wrongly without a word. */
bool hardware_accepts(const struct MilProgram *program, struct Problem *why);

/* Between program.c, which reads, and operations.c, which knows what each operation takes and gives. */
enum Kind { NO_PARAMETER, TENSOR, SUMMAND, TENSORS, LIST, INTEGER, FLAG }; /* SUMMAND: a tensor or a scalar constant */
enum { MOST_PARAMETERS = 4 };
struct Parameter {
    const char *name;
    enum Kind kind;
    int place; /* in operands, lists or flags */
};
struct OperationRow {
    const char *name;
    struct Parameter parameters[MOST_PARAMETERS];
    /* The type of the result, or what is wrong with the operands. */
    bool (*infer)(const struct MilProgram *program, const struct Statement *statement, struct Type *type,
                  struct Problem *why);
};
extern const struct OperationRow OPERATION_TABLE[OPERATIONS];
/* Why an operation that is not in the table must not be used, or NULL. */
const char *operation_refused(const char *name);

#endif
