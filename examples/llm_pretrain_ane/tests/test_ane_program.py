"""Reading MIL text: what is refused, with which sentence; the hardware's rules; texts that are changed at random."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ane_build import ANE
from ane_build import program as build_program
from ane_programs import FILES, HARMFUL, Simulator, Text, load, refusal
from ane_texts import const, halves, ints, let, program

HERE = Path(__file__).parent


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    made = Simulator(load())
    yield made
    made.close()


# What is refused, with its line.

PLAIN = halves(1, 128, 1, 64)
GOOD = [
    ints("perm", [0, 1, 3, 2]),
    let(halves(1, 128, 64, 1), "upright", "transpose(perm = perm, x = packed)"),
    ints("flat", [1, 1, 128, 64]),
    let(halves(1, 1, 128, 64), "rows", "reshape(shape = flat, x = upright)"),
    const("bool", "no", False),
    const("bool", "yes", True),
    let(halves(1, 1, 128, 128), "square", "matmul(transpose_x = no, transpose_y = yes, x = rows, y = rows)"),
    const("int32", "axis", -1),
    let(halves(1, 1, 128, 128), "p", "softmax(axis = axis, x = square)"),
    ints("axes", [-1]),
    let(halves(1, 1, 128, 1), "total", "reduce_sum(x = p, axes = axes, keep_dims = yes)"),
    let(halves(1, 1, 128, 128), "centred", "sub(x = p, y = total)"),
    ints("begin", [0, 0, 0, 64]),
    ints("part", [1, 1, 128, 64]),
    let(halves(1, 1, 128, 64), "cut", "slice_by_size(x = centred, begin = begin, size = part)"),
    ints("back", [1, 128, 1, 64]),
    let(PLAIN, "half", "reshape(shape = back, x = cut)"),
    const("int32", "channels", 1),
    let(halves(1, 256, 1, 64), "made", "concat(axis = channels, interleave = no, values = (half, packed))"),
]


TYPES = {one.split("]> ")[1].split()[0]: one[: one.index("]") + 2] for one in GOOD if one.startswith("tensor<fp16")}


def good(**statements: str) -> Text:
    """The program above with some statements replaced: by the name of what they define."""
    lines = [statements.get(one.split(" = ")[0].split()[-1], one) for one in GOOD]
    return program(f"{PLAIN} packed", lines, "made")


def blob(path: str) -> str:
    """A constant tensor's value."""
    return f'BLOBFILE(path = string("{path}"), offset = uint64(64))'


def call(**calls: str) -> Text:
    """With other operations of the same names and types."""
    return good(**{name: let(TYPES[name], name, made) for name, made in calls.items()})


def test_the_program_that_the_refused_ones_are_made_of_is_good(simulator: Simulator) -> None:
    assert refusal(simulator, good()) == ""


WRONG = {
    "declared_shape": (
        good(upright=let(halves(1, 128, 32, 2), "upright", "transpose(perm = perm, x = packed)")),
        "line 6: upright is declared as fp16 [1, 128, 32, 2], but transpose gives fp16 [1, 128, 64, 1]",
    ),
    "declared_axes": (
        good(rows=let(halves(128, 64), "rows", "reshape(shape = flat, x = upright)")),
        "line 8: rows is declared as fp16 [128, 64], but reshape gives fp16 [1, 1, 128, 64]",
    ),
    "declared_element": (
        good(rows=let("tensor<fp32, [1, 1, 128, 64]>", "rows", "reshape(shape = flat, x = upright)")),
        "line 8: rows is declared as fp32 [1, 1, 128, 64], but reshape gives fp16 [1, 1, 128, 64]",
    ),
    "slice_beyond": (
        good(begin=ints("begin", [0, 0, 0, 65])),
        "line 19: slice_by_size: 64 numbers from 65 on are not within the 128 of axis 3",
    ),
    "slice_before": (
        good(begin=ints("begin", [0, 0, 0, -1])),
        "line 19: slice_by_size: 64 numbers from -1 on are not within the 128 of axis 3",
    ),
    "slice_to_the_end": (
        good(part=ints("part", [1, 1, 128, -1])),
        "line 19: slice_by_size: -1 numbers from 64 on are not within the 128 of axis 3",
    ),
    "slice_axes": (
        good(begin=ints("begin", [0, 64])),
        "line 19: slice_by_size: begin and size need one number for each of 4 axes",
    ),
    "reshape_count": (
        good(flat=ints("flat", [1, 1, 128, 32])),
        "line 8: reshape: 8192 elements cannot have this shape",
    ),
    "reshape_open": (good(flat=ints("flat", [1, 1, 128, -1])), "line 8: reshape: 8192 elements cannot have this shape"),
    "permutation": (good(perm=ints("perm", [0, 1, 3, 3])), "line 6: transpose: perm is no permutation of 4 axes"),
    "factors": (
        call(square="matmul(transpose_x = no, transpose_y = no, x = rows, y = rows)"),
        "line 11: matmul: rows of 64 numbers cannot be multiplied with columns of 128",
    ),
    "factors_axes": (
        call(square="matmul(transpose_x = no, transpose_y = yes, x = rows, y = packed)"),
        "line 11: matmul: the factors have 1 and 128 matrices along axis 1",
    ),
    "softmax_axis": (good(axis=const("int32", "axis", 4)), "line 13: softmax: there is no axis 4"),
    "sum_without_axis": (
        call(total="reduce_sum(x = p, axes = axes, keep_dims = no)"),
        "line 15: reduce_sum: reduce_sum is only known for one axis, with keep_dims",
    ),
    "broadcast": (
        call(centred="sub(x = p, y = rows)"),
        "line 16: sub: the operands have 128 and 64 numbers along axis 3",
    ),
    "concat_shapes": (
        call(made="concat(axis = channels, interleave = no, values = (half, rows))"),
        "line 23: concat: the values have 1 and 128 numbers along axis 2",
    ),
    "concat_interleave": (
        call(made="concat(axis = channels, interleave = yes, values = (half, half))"),
        "line 23: concat: concat is only known without interleave",
    ),
    "unknown_operation": (
        call(p="soft_max(axis = axis, x = square)"),
        "line 13: the operation soft_max is not known",
    ),
    "wrong_parameter": (
        call(total="reduce_sum(x = p, axis = axes, keep_dims = yes)"),
        "line 15: reduce_sum has no parameter axis",
    ),
    "missing_parameter": (
        call(total="reduce_sum(x = p, axes = axes)"),
        "line 15: reduce_sum needs the parameter keep_dims",
    ),
    "parameter_twice": (
        call(p="softmax(axis = axis, x = square, axis = axis)"),
        "line 13: the parameter axis of softmax is given twice",
    ),
    "literal_flag": (
        call(square="matmul(transpose_x = false, transpose_y = yes, x = rows, y = rows)"),
        "line 11: the parameter transpose_x of matmul must be a constant's name instead of false",
    ),
    "literal_axis": (
        call(p="softmax(axis = -1, x = square)"),
        "line 13: the parameter axis of softmax must be a constant's name instead of -1",
    ),
    "kind": (
        call(p="softmax(axis = flat, x = square)"),
        "line 13: axis of softmax must be a constant int32",
    ),
    "scalar_operand": (
        call(p="softmax(axis = axis, x = axis)"),
        "line 13: x of softmax must be a tensor of fp16",
    ),
    "later_name": (
        call(rows="reshape(shape = flat, x = square)"),
        "line 8: there is no value square",
    ),
    "name_twice": (good(flat=ints("perm", [1, 1, 128, 64])), "line 7: the name perm is taken"),
    "input_again": (good(perm=ints("packed", [0, 1, 3, 2])), "line 5: the name packed is taken"),
    "list_length": (
        good(perm='tensor<int32, [4]> perm = const()[name = string("perm"), val = tensor<int32, [4]>([0, 1, 2])];'),
        "line 5: perm has 3 integers instead of 4",
    ),
    "long_list": (good(perm=ints("perm", [0, 1, 2, 3, 4])), "line 5: a list of more than 4 integers"),
    "other_type": (
        good(axis='int32 axis = const()[name = string("axis"), val = fp16(-1)];'),
        "line 12: axis is declared with another type than its constant has",
    ),
    "no_integer": (good(axis=const("int32", "axis", 1.5)), "line 12: 1.5 is no 32-bit integer"),
    "large_integer": (good(axis=const("int32", "axis", 1 << 40)), "line 12: 1.09951e+12 is no 32-bit integer"),
    "inline_tensor": (
        good(perm='tensor<fp16, [2]> perm = const()[name = string("perm"), val = tensor<fp16, [2]>([0, 1])];'),
        "line 5: a constant tensor must be in a file, but for lists of int32",
    ),
    "five_axes": (good(upright=let(halves(1, 1, 1, 1, 1), "upright", "transpose(perm = perm, x = packed)")),
                  "line 6: a list of more than 4 integers"),
    "no_elements": (good(upright=let(halves(1, 128, 0, 1), "upright", "transpose(perm = perm, x = packed)")),
                    "line 6: a tensor cannot have 0 numbers along an axis"),
    "too_large": (good(upright=let(halves(1, 65536, 65536, 1), "upright", "transpose(perm = perm, x = packed)")),
                  "line 6: a tensor of more than 268435456 elements"),
    "old_scalar": (good(no='tensor<bool, []> no = const()[name = string("no"), val = tensor<bool, []>(false)];'),
                   "line 9: program(1.3) writes scalars by their type alone"),
    "character": (good(no="bool no = const()[name = 'no', val = bool(false)];"),
                  "line 9: the character with the code 39 does not belong here"),
    "no_file": (
        good(no=const("tensor<fp16, [4]>", "no", blob("@model_path/weights/a.bin"))),
        "line 9: there is no file @model_path/weights/a.bin",
    ),
    "other_folder": (
        good(no=const("tensor<fp16, [4]>", "no", blob("/weights/a.bin"))),
        "line 9: the path /weights/a.bin must begin with @model_path/",
    ),
    "output_is_no_result": (
        program(f"{PLAIN} packed", GOOD, "packed"), "line 24: the output packed is not computed"),
    "no_such_output": (program(f"{PLAIN} packed", GOOD, "other"), "line 24: there is no value other"),
    "rest": (Text(good().text + "}", {}), "line 26: the end of the text is expected instead of }"),
    "quotes": (Text(good().text.replace('upright")', "upright"), {}),
               "line 6: a text in quotes does not end as it should"),
    "cut": (Text(good().text[:-3], {}), "line 24: } is expected instead of the end of the text"),
    "nothing": (Text("", {}), "line 1: program is expected instead of the end of the text"),
    "version": (Text(good().text.replace("1.3", "1.2"), {}), "line 1: program(1.2) is neither 1.0 nor 1.3"),
    "operations_of_another_version": (
        Text(good().text.replace("ios18", "ios16"), {}), "line 4: ios18 is expected instead of ios16"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_text_is_refused_with_its_line(simulator: Simulator, name: str) -> None:
    text, sentence = WRONG[name]
    assert refusal(simulator, text) == f"program, {sentence}"


def one(kind: str, call: str, *before: str, inputs: str = "", output: str = "") -> Text:
    """A program of one operation."""
    return program(inputs or f"{kind} packed", [*before, let(output or kind, "made", call)], "made")


def packed_weights(count: int) -> Text:
    """A sum of products with so many weights of the input."""
    kind, statements = halves(1, 128, 1, 32), [ints("size", [1, 128, 1, 32]), const("bool", "no", False)]
    statements += [const("bool", "yes", True), ints("flat", [1, 1, 128, 32])]
    total = ""
    for i in range(count + 1):
        statements += [
            ints(f"b{i}", [0, 0, 0, 32 * i]),
            let(kind, f"s{i}", f"slice_by_size(x = packed, begin = b{i}, size = size)"),
            let(halves(1, 1, 128, 32), f"m{i}", f"reshape(shape = flat, x = s{i})"),
        ]
        if i > 0:
            statements.append(
                let(halves(1, 1, 128, 128), f"p{i}", f"matmul(transpose_x = no, transpose_y = yes, x = m0, y = m{i})")
            )
        if i > 1:
            statements.append(let(halves(1, 1, 128, 128), f"t{i}", f"add(x = {total}, y = p{i})"))
        total = "p1" if i <= 1 else f"t{i}"
    statements += [ints("back", [1, 128, 1, 128])]
    statements.append(let(halves(1, 128, 1, 128), "made", f"reshape(shape = back, x = {total})"))
    return program(f"{halves(1, 128, 1, 32 * (count + 1))} packed", statements, "made")


def contraction(length: int) -> Text:
    kind = halves(1, 128, 1, length)
    before = [
        ints("flat", [1, 1, 128, length]),
        let(halves(1, 1, 128, length), "rows", "reshape(shape = flat, x = packed)"),
        const("bool", "no", False),
        const("bool", "yes", True),
        let(halves(1, 1, 128, 128), "square", "matmul(transpose_x = no, transpose_y = yes, x = rows, y = rows)"),
        ints("back", [1, 128, 1, 128]),
    ]
    return one(kind, "reshape(shape = back, x = square)", *before, output=halves(1, 128, 1, 128))


def softmax(length: int, axis: int = -1) -> Text:
    return one(halves(1, 128, 1, length), "softmax(axis = axis, x = packed)", const("int32", "axis", axis))


def channel_vector(columns: int) -> Text:
    before = [
        ints("begin", [0, 0, 0, 0]),
        ints("size", [1, 128, 1, columns]),
        let(halves(1, 128, 1, columns), "some", "slice_by_size(x = packed, begin = begin, size = size)"),
    ]
    return one(PLAIN, "mul(x = packed, y = some)", *before)


def named(name: str) -> Text:
    return program(f"{PLAIN} packed", [let(PLAIN, name, "sigmoid(x = packed)")], name)


def sum_along(axis: int, output: str) -> Text:
    before = [ints("axes", [axis]), const("bool", "yes", True)]
    total = let(output, "total", "reduce_sum(x = packed, axes = axes, keep_dims = yes)")
    return one(PLAIN, "sub(x = packed, y = total)", *before, total)


def two_outputs(outputs: str) -> Text:
    statements = [let(PLAIN, "left", "sigmoid(x = packed)"), let(PLAIN, "made", "sigmoid(x = left)")]
    return program(f"{PLAIN} packed", statements, outputs)


def wide_concat(axis: int, dims: tuple[int, ...]) -> Text:
    before = [const("int32", "axis", axis), const("bool", "no", False)]
    return one(PLAIN, "concat(axis = axis, interleave = no, values = (packed, packed))", *before, output=halves(*dims))


TWO_INPUTS = one(PLAIN, "add(x = packed, y = more)", inputs=f"{PLAIN} packed, {PLAIN} more")
# Of each rule a text that breaks it, one beside it that does not, and the sentence.
RULES = {
    "contraction": (
        contraction(48), contraction(64),
        "line 9: sums over 48 numbers come out as zero, the number must be a multiple of 32",
    ),
    "softmax_length": (
        softmax(96), softmax(64), "line 6: softmax over 96 numbers is refused, the number must be a power of two",
    ),
    "softmax_axis": (softmax(64, axis=1), softmax(64, axis=3), "line 6: softmax works along the last axis only"),
    "sum_axis": (
        sum_along(1, halves(1, 1, 1, 64)), good(),
        "line 7: reduce_sum works along the last axis only",
    ),
    "concat_axis": (
        wide_concat(3, (1, 128, 1, 128)), wide_concat(1, (1, 256, 1, 64)),
        "line 7: concat works along the channels, axis 1, only",
    ),
    "channels": (
        one(halves(1, 96, 1, 64), "sigmoid(x = packed)"), one(halves(1, 128, 1, 64), "sigmoid(x = packed)"),
        "packed has 96 channels, fewer than 128 fail when the program runs",
    ),
    "columns": (
        one(halves(1, 128, 1, 24), "sigmoid(x = packed)"), one(halves(1, 128, 1, 16), "sigmoid(x = packed)"),
        "packed has 24 columns, which must be a multiple of 16",
    ),
    "few_columns": (
        one(halves(1, 128, 1, 8), "sigmoid(x = packed)"), one(halves(1, 128, 1, 16), "sigmoid(x = packed)"),
        "packed has 8 columns, which must be a multiple of 16",
    ),
    "surface_shape": (
        one(halves(1, 128, 2, 32), "sigmoid(x = packed)"), one(PLAIN, "sigmoid(x = packed)"),
        "packed must be halves of the shape [1, channels, 1, columns]",
    ),
    "two_inputs": (
        TWO_INPUTS, one(PLAIN, "add(x = packed, y = packed)"),
        "it must have one input and one output, since more fail or are exchanged",
    ),
    "two_outputs": (
        two_outputs("left, made"), two_outputs("made"),
        "it must have one input and one output, since more fail or are exchanged",
    ),
    "weights": (
        packed_weights(6), packed_weights(5), "more than 5 packed weights in one program are refused",
    ),
    "channel_vector": (
        channel_vector(1), channel_vector(64), "line 8: an operand [1, channels, 1, 1] that is broadcast gives zeros",
    ),
    "tile": (
        one(PLAIN, "tile(x = packed, reps = reps)", ints("reps", [1, 2, 1, 1])), one(PLAIN, "sigmoid(x = packed)"),
        "line 6: the operation tile crashes the compiler: every head needs keys and values of its own",
    ),
    "attention": (
        one(PLAIN, "scaled_dot_product_attention(query = packed, key = packed, value = packed)"),
        one(PLAIN, "sigmoid(x = packed)"), "line 5: the operation scaled_dot_product_attention ignores its mask",
    ),
    "cast": (
        one(PLAIN, "cast(x = packed)"), one(PLAIN, "sigmoid(x = packed)"),
        "line 5: the operation cast is not known to M1 and M2; surfaces hold halves already",
    ),
    **{f"name_{name}": (named(name), named(f"{name}1"), f"a value with the name {name} gives zeros")
       for name in HARMFUL},
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_text_that_breaks_a_rule_of_the_hardware_is_refused(simulator: Simulator, rule: str) -> None:
    wrong, right, sentence = RULES[rule]
    assert refusal(simulator, wrong) == f"program{',' if sentence.startswith('line') else ':'} {sentence}"
    assert refusal(simulator, right) == ""


def fuzz(rounds: int, seed: int) -> None:
    sources = [ANE / f"{name}.c" for name in FILES if name != "device"]
    fuzzer = build_program(HERE / "mil_fuzz.c", *sources, sanitize=True)
    done = subprocess.run([fuzzer, str(rounds), str(seed)], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    accepted = int(done.stdout.split()[0])
    assert rounds / 10 < accepted < rounds / 2  # both ways are tried


def test_changed_texts_and_files_are_refused_or_run() -> None:
    fuzz(200, 1)


@pytest.mark.slow
def test_many_changed_texts_and_files_are_refused_or_run() -> None:
    fuzz(2500, 2)
