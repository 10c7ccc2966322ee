/* Reads MIL text: tokens, then descent through the grammar, each statement checked as it is read.
 *
 * A name must be defined before it is used, and only once. What parameters an operation has, and what comes out of it,
 * is operations.c's. */
#include "program.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mil.h"

enum { MOST_TEXT = 1 << 20, MOST_STRING = 256 };

static const char NOTHING[] = "the end of the text"; /* in sentences */

enum TokenKind { END, WORD, NUMBER, TEXT, ARROW, MARK }; /* MARK: one character */

struct Parser {
    const char *at, *end;
    int line;
    enum TokenKind kind;
    char token[MOST_STRING]; /* a string without its quotes */
    const struct Source *source;
    struct MilProgram *program;
    size_t elements;
    struct Problem *why;
};

/* `... || refuse(...)`: the problem with the line; always false. */
__attribute__((format(printf, 2, 3))) static bool refuse(struct Parser *p, const char *format, ...) {
    char text[sizeof p->why->text / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return problem(p->why, "%s, line %d: %s", p->source->name, p->line, text);
}

/* Tokens. */

static void skip_space(struct Parser *p) {
    for (; p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\r' || *p->at == '\n'); p->at++)
        p->line += *p->at == '\n';
}

static bool in_word(char character) {
    return isalnum((unsigned char)character) || character == '_';
}

static bool in_number(const char *at) {
    bool exponent = strchr("eEpP", at[-1]) != NULL;
    return isalnum((unsigned char)*at) || *at == '.' || (exponent && (*at == '-' || *at == '+'));
}

static bool keep(struct Parser *p, enum TokenKind kind, const char *begin, const char *end) {
    size_t length = (size_t)(end - begin);
    if (length >= sizeof p->token)
        return refuse(p, "a name or a text is longer than %d characters", MOST_STRING - 1);
    memcpy(p->token, begin, length);
    p->token[length] = 0;
    p->kind = kind;
    return true;
}

static bool next_string(struct Parser *p) {
    const char *begin = ++p->at;
    while (p->at < p->end && *p->at != '"' && *p->at != '\\' && (unsigned char)*p->at >= ' ')
        p->at++;
    if (p->at == p->end || *p->at != '"')
        return refuse(p, "a text in quotes does not end as it should");
    return keep(p, TEXT, begin, p->at++);
}

static bool next(struct Parser *p) {
    skip_space(p);
    const char *begin = p->at;
    if (begin == p->end)
        return keep(p, END, NOTHING, NOTHING + strlen(NOTHING));
    if (*begin == '"')
        return next_string(p);
    if (in_word(*begin) && !isdigit((unsigned char)*begin)) {
        while (p->at < p->end && in_word(*p->at))
            p->at++;
        return keep(p, WORD, begin, p->at);
    }
    bool more = begin + 1 < p->end;
    if (*begin == '-' && more && begin[1] == '>') {
        p->at += 2;
        return keep(p, ARROW, begin, p->at);
    }
    p->at++;
    if (isdigit((unsigned char)*begin) || (*begin == '-' && more && isdigit((unsigned char)begin[1]))) {
        while (p->at < p->end && in_number(p->at))
            p->at++;
        return keep(p, NUMBER, begin, p->at);
    }
    if (*begin == 0 || strchr("(){}[]<>=,;", *begin) == NULL)
        return refuse(p, "the character with the code %d does not belong here", (unsigned char)*begin);
    return keep(p, MARK, begin, p->at);
}

static bool is(const struct Parser *p, const char *token) {
    return p->kind != TEXT && p->kind != END && strcmp(p->token, token) == 0;
}

static bool unexpected(struct Parser *p, const char *expected) {
    return refuse(p, "%s is expected instead of %s", expected, p->token);
}

static bool expect(struct Parser *p, const char *token) {
    return is(p, token) ? next(p) : unexpected(p, token);
}

/* Several in a row, separated by spaces. */
static bool expect_all(struct Parser *p, const char *tokens) {
    while (*tokens != 0) {
        char token[32];
        size_t length = strcspn(tokens, " ");
        snprintf(token, sizeof token, "%.*s", (int)length, tokens);
        if (!expect(p, token))
            return false;
        tokens += length + (tokens[length] == ' ');
    }
    return true;
}

static bool expect_string(struct Parser *p, char *text, size_t bytes) {
    if (p->kind != TEXT)
        return unexpected(p, "a text in quotes");
    if (text != NULL)
        snprintf(text, bytes, "%s", p->token);
    return next(p);
}

/* A list's comma: false at the end of the list. */
static bool comma(struct Parser *p, bool *failed) {
    if (!is(p, ","))
        return false;
    *failed = !next(p);
    return !*failed;
}

static bool expect_number(struct Parser *p, double *number) {
    char *end;
    if (p->kind != NUMBER)
        return unexpected(p, "a number");
    *number = strtod(p->token, &end);
    return (*end == 0 && isfinite(*number) && next(p)) || refuse(p, "%s is no number", p->token);
}

static bool expect_integer(struct Parser *p, int *integer) {
    double number = 0;
    if (!expect_number(p, &number))
        return false;
    if (!(number >= -INT32_MAX && number <= INT32_MAX) || number != (double)(int)number)
        return refuse(p, "%g is no 32-bit integer", number);
    *integer = (int)number;
    return true;
}

/* '[' integers ']' */
static bool expect_integers(struct Parser *p, int *integers, int *count) {
    *count = 0;
    if (!expect(p, "["))
        return false;
    bool failed = false;
    if (!is(p, "]"))
        do {
            if (*count == MOST_AXES)
                return refuse(p, "a list of more than %d integers", MOST_AXES);
            if (!expect_integer(p, &integers[(*count)++]))
                return false;
        } while (comma(p, &failed));
    return !failed && expect(p, "]");
}

/* Types. The newer dialect writes scalars as such, the older one as tensors without axes. */

static const char *const ELEMENT_NAMES[ELEMENT_TYPES] = {"fp16", "fp32", "int32", "uint64", "bool", "string"};

static bool expect_element(struct Parser *p, enum Element *element) {
    for (int i = 0; p->kind == WORD && i < ELEMENT_TYPES; i++)
        if (strcmp(p->token, ELEMENT_NAMES[i]) == 0) {
            *element = (enum Element)i;
            return next(p);
        }
    return unexpected(p, "a type");
}

static bool expect_type(struct Parser *p, struct Type *type) {
    bool old = p->program->dialect == DIALECT_M1;
    *type = (struct Type){0};
    if (!is(p, "tensor")) {
        if (old)
            return refuse(p, "program(1.0) writes scalars as tensors without axes, not as %s", p->token);
        return expect_element(p, &type->element);
    }
    if (!expect_all(p, "tensor <") || !expect_element(p, &type->element) || !expect(p, ",") ||
        !expect_integers(p, type->dims, &type->axes) || !expect(p, ">"))
        return false;
    if (type->axes == 0 && !old)
        return refuse(p, "program(1.3) writes scalars by their type alone");
    size_t elements = 1;
    for (int i = 0; i < type->axes; i++) {
        if (type->dims[i] < 1 || type->dims[i] > MOST_ELEMENTS)
            return refuse(p, "a tensor cannot have %d numbers along an axis", type->dims[i]);
        elements *= (size_t)type->dims[i];
        if (elements > MOST_ELEMENTS)
            return refuse(p, "a tensor of more than %d elements", MOST_ELEMENTS);
    }
    return true;
}

static bool expect_scalar_type(struct Parser *p, enum Element element) {
    struct Type type;
    return expect_type(p, &type) && ((type.axes == 0 && type.element == element) ||
                                     refuse(p, "%s is expected instead of another type", ELEMENT_NAMES[element]));
}

/* string("...") */
static bool expect_typed_string(struct Parser *p, char *text, size_t bytes) {
    return expect_scalar_type(p, TYPE_STRING) && expect(p, "(") && expect_string(p, text, bytes) && expect(p, ")");
}

/* Values. */

static int value_named(const struct Parser *p, const char *name) {
    for (int i = 0; i < p->program->value_count; i++)
        if (strcmp(p->program->values[i].name, name) == 0)
            return i;
    return -1;
}

static bool reserved(const char *name) {
    return strcmp(name, "true") == 0 || strcmp(name, "false") == 0 || strcmp(name, "tensor") == 0;
}

/* A type and a new name. */
static bool expect_declaration(struct Parser *p, struct Value *value) {
    *value = (struct Value){.statement = -1};
    if (!expect_type(p, &value->type))
        return false;
    if (p->kind != WORD || reserved(p->token))
        return unexpected(p, "a name");
    if (strlen(p->token) >= sizeof value->name)
        return refuse(p, "a name has more than %d characters", VALUE_NAME - 1);
    if (value_named(p, p->token) >= 0)
        return refuse(p, "the name %s is taken", p->token);
    memcpy(value->name, p->token, strlen(p->token) + 1);
    p->elements += type_elements(&value->type);
    if (p->elements > MOST_ELEMENTS)
        return refuse(p, "the tensors have more than %d elements together", MOST_ELEMENTS);
    return next(p);
}

static bool add_value(struct Parser *p, const struct Value *value) {
    if (p->program->value_count == MOST_VALUES)
        return refuse(p, "there are more than %d values", MOST_VALUES);
    p->program->values[p->program->value_count++] = *value;
    return true;
}

static bool expect_known(struct Parser *p, int *index) {
    if (p->kind != WORD)
        return unexpected(p, "a name");
    *index = value_named(p, p->token);
    return *index < 0 ? refuse(p, "there is no value %s", p->token) : next(p);
}

/* Constants. */

static bool read_blob(struct Parser *p, struct Value *value) {
    static const char PREFIX[] = "@model_path/";
    char path[MOST_STRING];
    double offset = 0;
    if (!expect_all(p, "BLOBFILE ( path =") || !expect_typed_string(p, path, sizeof path) ||
        !expect_all(p, ", offset =") || !expect_scalar_type(p, TYPE_UINT64) || !expect(p, "(") ||
        !expect_number(p, &offset) || !expect_all(p, ") )"))
        return false;
    if (strncmp(path, PREFIX, sizeof PREFIX - 1) != 0)
        return refuse(p, "the path %s must begin with %s", path, PREFIX);
    if (!(offset >= 0 && offset <= INT32_MAX))
        return refuse(p, "%g is no offset", offset);
    for (int i = 0; i < p->source->blob_count; i++) {
        struct Problem blob;
        if (strcmp(p->source->blobs[i].path, path + sizeof PREFIX - 1) != 0)
            continue;
        value->halves = blob_halves(&p->source->blobs[i], (uint64_t)offset, type_elements(&value->type), &blob);
        return value->halves != NULL || refuse(p, "%s", blob.text);
    }
    return refuse(p, "there is no file %s", path);
}

static bool read_scalar(struct Parser *p, struct Value *value) {
    int integer = 0;
    switch (value->type.element) {
    case TYPE_BOOL:
        if (!is(p, "true") && !is(p, "false"))
            return unexpected(p, "true or false");
        value->number = is(p, "true");
        return next(p);
    case TYPE_INT32:
        if (!expect_integer(p, &integer))
            return false;
        value->number = integer;
        return true;
    case TYPE_FP16: return expect_number(p, &value->number);
    default: return refuse(p, "a constant of type %s has no use here", ELEMENT_NAMES[value->type.element]);
    }
}

static bool read_list(struct Parser *p, struct Value *value) {
    int count;
    if (value->type.element != TYPE_INT32 || value->type.axes != 1)
        return refuse(p, "a constant tensor must be in a file, but for lists of int32");
    if (!expect_integers(p, value->list, &count))
        return false;
    int declared = value->type.dims[0];
    return count == declared || refuse(p, "%s has %d integers instead of %d", value->name, count, declared);
}

/* Behind the operation's name: () [name = ..., val = type(...)] */
static bool read_constant(struct Parser *p, struct Value *value) {
    struct Type type;
    if (!expect_all(p, "( ) [ name =") || !expect_typed_string(p, NULL, 0) || !expect_all(p, ", val =") ||
        !expect_type(p, &type) || !expect(p, "("))
        return false;
    if (type.element != value->type.element || type.axes != value->type.axes ||
        memcmp(type.dims, value->type.dims, sizeof type.dims) != 0)
        return refuse(p, "%s is declared with another type than its constant has", value->name);
    value->constant = true;
    bool blob = type.axes > 0 && type.element == TYPE_FP16 && is(p, "BLOBFILE");
    bool read = blob ? read_blob(p, value) : type.axes == 0 ? read_scalar(p, value) : read_list(p, value);
    return read && expect_all(p, ") ]") && add_value(p, value);
}

/* Operations. */

static bool fits(const struct Value *value, enum Kind kind) {
    const struct Type *type = &value->type;
    switch (kind) {
    case TENSOR:
    case TENSORS: return type->element == TYPE_FP16 && type->axes > 0;
    case SUMMAND: return type->element == TYPE_FP16;
    case LIST: return value->constant && type->element == TYPE_INT32 && type->axes == 1;
    case INTEGER: return value->constant && type->element == TYPE_INT32 && type->axes == 0;
    case FLAG: return value->constant && type->element == TYPE_BOOL && type->axes == 0;
    case NO_PARAMETER: break;
    }
    return false;
}

static const char *kind_words(enum Kind kind) {
    switch (kind) {
    case LIST: return "a constant list of int32";
    case INTEGER: return "a constant int32";
    case FLAG: return "a constant bool";
    default: return "a tensor of fp16";
    }
}

static void take(struct Statement *statement, const struct Parameter *parameter, const struct Value *value, int index) {
    switch (parameter->kind) {
    case TENSOR:
    case SUMMAND:
        statement->operands[parameter->place] = index;
        statement->operand_count++;
        break;
    case TENSORS: statement->operands[statement->operand_count++] = index; break;
    case LIST:
        memcpy(statement->lists[parameter->place], value->list, sizeof value->list);
        statement->list_lengths[parameter->place] = value->type.dims[0];
        break;
    case INTEGER: statement->axis = (int)value->number; break;
    case FLAG: statement->flags[parameter->place] = value->number != 0; break;
    case NO_PARAMETER: break;
    }
}

/* The name of a value behind `parameter =`. */
static bool read_argument(struct Parser *p, struct Statement *statement, const struct Parameter *parameter) {
    const char *operation = OPERATION_TABLE[statement->operation].name;
    int index = 0;
    if (p->kind != WORD || reserved(p->token))
        return refuse(p, "the parameter %s of %s must be a constant's name instead of %s", parameter->name, operation,
                      p->token);
    if (!expect_known(p, &index))
        return false;
    const struct Value *value = &p->program->values[index];
    if (!fits(value, parameter->kind))
        return refuse(p, "%s of %s must be %s", parameter->name, operation, kind_words(parameter->kind));
    take(statement, parameter, value, index);
    return true;
}

static bool read_arguments(struct Parser *p, struct Statement *statement, const struct Parameter *parameter) {
    bool failed = false;
    if (parameter->kind != TENSORS)
        return read_argument(p, statement, parameter);
    if (!expect(p, "("))
        return false;
    do {
        if (statement->operand_count == MOST_OPERANDS)
            return refuse(p, "more than %d values", MOST_OPERANDS);
        if (!read_argument(p, statement, parameter))
            return false;
    } while (comma(p, &failed));
    return !failed && expect(p, ")");
}

static int parameter_named(const struct OperationRow *row, const char *name) {
    for (int i = 0; i < MOST_PARAMETERS && row->parameters[i].kind != NO_PARAMETER; i++)
        if (strcmp(row->parameters[i].name, name) == 0)
            return i;
    return -1;
}

static bool read_call(struct Parser *p, struct Statement *statement) {
    const struct OperationRow *row = &OPERATION_TABLE[statement->operation];
    unsigned given = 0;
    bool failed = false;
    if (!expect(p, "("))
        return false;
    do {
        int index = p->kind == WORD ? parameter_named(row, p->token) : -1;
        if (index < 0)
            return refuse(p, "%s has no parameter %s", row->name, p->token);
        if (given >> index & 1)
            return refuse(p, "the parameter %s of %s is given twice", p->token, row->name);
        given |= 1u << index;
        if (!next(p) || !expect(p, "=") || !read_arguments(p, statement, &row->parameters[index]))
            return false;
    } while (comma(p, &failed));
    for (int i = 0; i < MOST_PARAMETERS && row->parameters[i].kind != NO_PARAMETER; i++)
        if (!(given >> i & 1))
            return refuse(p, "%s needs the parameter %s", row->name, row->parameters[i].name);
    return !failed && expect_all(p, ") [ name =") && expect_typed_string(p, NULL, 0) && expect(p, "]");
}

static void describe(char *text, size_t bytes, const struct Type *type) {
    size_t used = (size_t)snprintf(text, bytes, "%s [", ELEMENT_NAMES[type->element]);
    for (int i = 0; i < type->axes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%d", i > 0 ? ", " : "", type->dims[i]);
    snprintf(text + used, bytes - used, "]");
}

static bool check_type(struct Parser *p, const struct Statement *statement, const struct Value *value) {
    const char *operation = OPERATION_TABLE[statement->operation].name;
    struct Type type = {0};
    struct Problem wrong;
    if (!OPERATION_TABLE[statement->operation].infer(p->program, statement, &type, &wrong))
        return refuse(p, "%s: %s", operation, wrong.text);
    bool same = type.element == value->type.element && type.axes == value->type.axes;
    for (int i = 0; same && i < type.axes; i++)
        same = type.dims[i] == value->type.dims[i];
    if (same)
        return true;
    char declared[80], given[80];
    describe(declared, sizeof declared, &value->type);
    describe(given, sizeof given, &type);
    return refuse(p, "%s is declared as %s, but %s gives %s", value->name, declared, operation, given);
}

static bool read_operation(struct Parser *p, struct Value *value, const char *name) {
    int operation = 0;
    while (operation < OPERATIONS && strcmp(OPERATION_TABLE[operation].name, name) != 0)
        operation++;
    if (operation == OPERATIONS) {
        const char *reason = operation_refused(name);
        return refuse(p, reason != NULL ? "the operation %s %s" : "the operation %s is not known%s", name,
                      reason != NULL ? reason : "");
    }
    struct MilProgram *program = p->program;
    struct Statement statement = {
        .operation = (enum Operation)operation, .line = p->line, .result = program->value_count};
    if (!read_call(p, &statement) || !check_type(p, &statement, value))
        return false;
    value->statement = program->statement_count;
    if (!add_value(p, value))
        return false;
    program->statements[program->statement_count++] = statement;
    return true;
}

static bool read_statement(struct Parser *p) {
    struct Value value;
    char operation[VALUE_NAME];
    if (!expect_declaration(p, &value) || !expect(p, "="))
        return false;
    if (p->kind != WORD)
        return unexpected(p, "an operation");
    snprintf(operation, sizeof operation, "%.*s", VALUE_NAME - 1, p->token);
    if (!next(p))
        return false;
    bool read = strcmp(operation, "const") == 0 ? read_constant(p, &value) : read_operation(p, &value, operation);
    return read && expect(p, ";");
}

/* The program around them. */

static bool read_build_info(struct Parser *p) {
    bool failed = false;
    if (!expect_all(p, "[ buildInfo = dict <") || !expect_scalar_type(p, TYPE_STRING) || !expect(p, ",") ||
        !expect_scalar_type(p, TYPE_STRING) || !expect_all(p, "> ( {"))
        return false;
    do
        if (!expect(p, "{") || !expect_string(p, NULL, 0) || !expect(p, ",") || !expect_string(p, NULL, 0) ||
            !expect(p, "}"))
            return false;
    while (comma(p, &failed));
    return !failed && expect_all(p, "} ) ]");
}

static bool read_head(struct Parser *p) {
    if (!expect_all(p, "program ("))
        return false;
    bool old = is(p, "1.0");
    if (!old && !is(p, "1.3"))
        return refuse(p, "program(%s) is neither 1.0 nor 1.3", p->token);
    p->program->dialect = old ? DIALECT_M1 : DIALECT_M3;
    return next(p) && expect(p, ")") && read_build_info(p) && expect_all(p, "{ func main <") &&
           expect(p, old ? "ios16" : "ios18") && expect(p, ">");
}

static bool read_inputs(struct Parser *p) {
    struct MilProgram *program = p->program;
    bool failed = false;
    if (!expect(p, "("))
        return false;
    do {
        struct Value value;
        if (program->input_count == MOST_OPERANDS)
            return refuse(p, "more than %d inputs", MOST_OPERANDS);
        program->inputs[program->input_count++] = program->value_count;
        if (!expect_declaration(p, &value) || !add_value(p, &value))
            return false;
    } while (comma(p, &failed));
    return !failed && expect(p, ")");
}

static bool read_outputs(struct Parser *p) {
    struct MilProgram *program = p->program;
    bool failed = false;
    if (!expect_all(p, "} -> ("))
        return false;
    do {
        int index = 0;
        if (program->output_count == MOST_OPERANDS)
            return refuse(p, "more than %d outputs", MOST_OPERANDS);
        if (!expect_known(p, &index))
            return false;
        if (program->values[index].statement < 0)
            return refuse(p, "the output %s is not computed", program->values[index].name);
        program->outputs[program->output_count++] = index;
    } while (comma(p, &failed));
    return !failed && expect_all(p, ") ; }");
}

bool program_parse(struct MilProgram *program, const struct Source *source, struct Problem *why) {
    *program = (struct MilProgram){.values = need(MOST_VALUES, sizeof(struct Value)),
                                   .statements = need(MOST_VALUES, sizeof(struct Statement))};
    snprintf(program->name, sizeof program->name, "%s", source->name);
    struct Parser parser = {.at = source->text, .end = source->text + source->length, .line = 1, .source = source,
                            .program = program, .why = why};
    if (source->length > MOST_TEXT)
        return refuse(&parser, "the text has more than %d bytes", MOST_TEXT);
    if (!next(&parser) || !read_head(&parser) || !read_inputs(&parser) || !expect(&parser, "{"))
        return false;
    while (!is(&parser, "}"))
        if (!read_statement(&parser))
            return false;
    if (!read_outputs(&parser))
        return false;
    return parser.kind == END || unexpected(&parser, NOTHING);
}

void program_free(struct MilProgram *program) {
    free(program->values);
    free(program->statements);
    *program = (struct MilProgram){0};
}
