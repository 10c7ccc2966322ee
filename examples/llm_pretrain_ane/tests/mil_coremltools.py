"""Reads programs again with coremltools, in a process of its own:  python mil_coremltools.py FOLDER...

Each folder has model.mil and the files that it names, as the Neural Engine's compiler would find them. The text is read
by other code than program.c; each statement is built anew with coremltools' operations for the text's version, which
check their operands and infer the result, and is compared with what the text declares; files are read with coremltools'
reader. The first difference is an error.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from coremltools.libmilstoragepython import _BlobStorageReader

TARGETS = {"ios16": ct.target.iOS16, "ios18": ct.target.iOS18}
STATEMENT = re.compile(r"\s*(?P<type>\S.*?) (?P<name>\w+) = (?P<op>\w+)\((?P<arguments>.*?)\)\[(?P<attributes>.*)\];")
NUMPY = {"int32": np.int32, "bool": np.bool_, "fp16": np.float16}


def dims(kind: str) -> tuple[str, tuple[int, ...]]:
    """The element and the shape of a type."""
    match = re.fullmatch(r"tensor<(\w+), \[([\d, ]*)\]>", kind)
    if match is None:
        return kind, ()
    return match[1], tuple(int(dim) for dim in match[2].split(",") if dim.strip())


def constant(kind: str, attributes: str, folder: Path) -> np.ndarray:
    """The value of a constant."""
    element, shape = dims(kind)
    value = attributes.split(", val = ", 1)[1]
    assert value.startswith(kind + "("), value
    value = value[len(kind) + 1 : -1]
    if value.startswith("BLOBFILE"):
        path = re.search(r'"@model_path/([^"]+)"', value)
        offset = re.search(r"\((\d+)\)\)$", value)
        assert path is not None and offset is not None, value
        data = _BlobStorageReader(str(folder / path[1])).read_fp16_data(int(offset[1]))
        return np.asarray(data, np.uint16).view(np.float16).reshape(shape)
    parsed = {"true": True, "false": False}[value] if element == "bool" else ast.literal_eval(value)
    return NUMPY[element](parsed) if shape == () else np.array(parsed, NUMPY[element]).reshape(shape)


def split(arguments: str) -> dict[str, list[str]]:
    """The values' names by parameter; a list in parentheses has several."""
    found = re.findall(r"(\w+) = (\([^)]*\)|\w+)", arguments)
    return {name: re.findall(r"\w+", value) for name, value in found}


def check(folder: Path) -> int:
    """How many operations the program has; AssertionError or coremltools' error when something is wrong."""
    text = (folder / "model.mil").read_text()
    head = re.search(r"func main<(\w+)>\((\S+ .*?) (\w+)\) \{", text)
    end = re.search(r"\} -> \((\w+)\);", text)
    assert head is not None and end is not None
    count = 0

    def build(packed: object) -> object:
        nonlocal count
        values = {head[3]: packed}
        for line in text[head.end() : end.start()].strip().splitlines():
            match = STATEMENT.fullmatch(line)
            assert match is not None, line
            assert match["name"] not in values, line
            if match["op"] == "const":
                values[match["name"]] = constant(match["type"], match["attributes"], folder)
                continue
            given = {name: [values[one] for one in names] for name, names in split(match["arguments"]).items()}
            arguments = {name: tuple(some) if name == "values" else some[0] for name, some in given.items()}
            made = getattr(Builder, match["op"])(**arguments, name=match["name"])
            element, shape = dims(match["type"])
            assert (element, tuple(made.shape)) == ("fp16", shape), line
            assert made.dtype is types.fp16, line
            values[match["name"]] = made
            count += 1
        return values[end[1]]

    element, shape = dims(head[2])
    assert element == "fp16"
    specification = [Builder.TensorSpec(shape=shape, dtype=types.fp16)]
    program = Builder.program(input_specs=specification, opset_version=TARGETS[head[1]])(build)
    model = ct.convert(
        program,
        minimum_deployment_target=TARGETS[head[1]],
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        outputs=[ct.TensorType(dtype=np.float16)],
    )
    model.save(str(folder / "model.mlpackage"))
    return count


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(argument, check(Path(argument)))
