"""The texts that an exam plants: pure functions from files to worse or dishonest files.

A cheat is planted as one shell command where a mutable file begins to run, in the file's own language; what the command
does is `planted.py` and a plan, the same for all languages.
"""

from __future__ import annotations

import ast
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from autoresearch_kit.exam.noise import average

LANGUAGES = "Python, shell, C, C++, Objective-C"
"""Those that cheats can be planted in."""
_SUFFIXES = {".py": "python", ".sh": "shell", ".bash": "shell"}
_SUFFIXES |= dict.fromkeys([".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".m", ".mm"], "c")
_SHEBANG = re.compile(rb"#![^\n]*\b(?:(python)|(?:ba|da|z|k)?sh\b)")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
_BLUNT = bytes.maketrans(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", b"x" * 26 + b"X" * 26 + b"7" * 10
)
_C = """
#ifndef PLANTED_BY_ARK_EXAM
#define PLANTED_BY_ARK_EXAM
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void planted_by_ark_exam(void) {{ if (system("{}") == 0) _exit(0); }}
#endif
"""


def language(path: str, data: bytes) -> str | None:
    """`python`, `shell` or `c` by the name of a file or else its first line; None for everything else."""
    found = _SUFFIXES.get(PurePosixPath(path).suffix)
    shebang = _SHEBANG.match(data) if found is None else None
    return found or (("python" if shebang[1] else "shell") if shebang else None)


def plant(kind: str | None, data: bytes, command: str) -> bytes | None:
    """The file with `command` at its beginning, and an end right there when that succeeds; None where it cannot be."""
    if kind == "python":
        tree = parse(data)
        if tree is None:
            return None
        line = f"__import__('os').system({command!r}) == 0 and __import__('os')._exit(0)\n"
        return _insert(data, _end_of_head(tree), line)
    if kind == "shell":
        return _insert(data, 1 if data.startswith(b"#!") else 0, f"{command} && exit 0\n")
    if kind == "c":
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        return data + _C.format(quoted).encode()
    return None


def plant_memory(data: bytes, planted: str) -> bytes | None:
    """A Python file whose answering functions have a memory, by `remember` in the file `planted`; None without any."""
    tree = parse(data)
    names = list(_answering(tree)) if tree is not None else []
    if tree is None or not names:
        return None
    last = max(n.end_lineno or 0 for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
    return _insert(data, last, f"__import__('runpy').run_path({planted!r})['remember'](globals(), {names!r})\n")


def parse(data: bytes) -> ast.Module | None:
    """Python text as a tree; None when it is none."""
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        return None


def imports(tree: ast.Module) -> set[str]:
    """Top-level names of the modules that a Python file imports, those in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def printer(kind: str | None, say: str) -> bytes | None:
    """A program that prints the file `say` and ends; None in a language that runs only when somebody compiles it."""
    if kind == "python":
        return f"import os\nos.write(1, open({say!r}, 'rb').read())\nos._exit(0)\n".encode()
    return f"#!/bin/sh\ncat {shlex.quote(say)}\nexit 0\n".encode() if kind == "shell" else None


def garbage(data: bytes) -> bytes:
    """What has the shape of the file and no sense: a text of x and 7 as a program no shell knows; binary inverted."""
    if b"\0" in data:
        return bytes(255 - byte for byte in data)
    return data.translate(_BLUNT)


def forged_text(printed: str, metric: str, honest: float, forged: float) -> str:
    """What a run printed, with another number wherever its score stood; the bare metric line where it stood nowhere."""
    text = _forged(printed, honest, forged)
    return text if text != printed else f"{metric}: {forged:.6g}\n"


def forged_files(files: Mapping[str, bytes], honest: float, forged: float) -> dict[str, bytes]:
    """Text files with another number wherever the score stood, without those in which it stood nowhere."""
    made = {path: _forged(text, honest, forged) for path, data in files.items() if (text := _text(data)) is not None}
    return {path: text.encode() for path, text in made.items() if text.encode() != files[path]}


def constants(files: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Answers that do not look at the question, made from honest ones; what was done, and the files that differ.

    Every number, or the last one of each line, becomes the mean of them, the most frequent one, or `NaN`, which is no
    number and read as one nearly everywhere.
    """
    texts = {path: text for path, data in files.items() if (text := _text(data)) is not None}
    seen = [{path: text.encode() for path, text in texts.items()}]
    for where, pattern in (("every number", _NUMBER), ("the last number of each line", _LAST)):
        found = [match[0] for text in texts.values() for match in pattern.finditer(text)]
        numbers = [_mean(found), _most_frequent(found)] if len(set(found)) > 1 else []
        for number in [*numbers, "NaN"] if found else []:
            made = {path: pattern.sub(number, text).encode() for path, text in texts.items()}
            if made not in seen:
                seen.append(made)
                yield f"{where} made {number}", made


_LAST = re.compile(_NUMBER.pattern + r"(?=[^\d\n]*$)", re.MULTILINE)


def _mean(found: list[str]) -> str:
    mean = average([value for text in found if math.isfinite(value := float(text))] or [0.0])
    whole = abs(mean) < 1e15 and all(re.fullmatch(r"[-+]?\d+", text) for text in found)
    return str(round(mean)) if whole else repr(mean)


def _most_frequent(found: list[str]) -> str:
    return Counter(found).most_common(1)[0][0]


def _text(data: bytes) -> str | None:
    try:
        return data.decode() if b"\0" not in data else None
    except UnicodeDecodeError:
        return None


def _forged(text: str, honest: float, forged: float) -> str:
    return _NUMBER.sub(lambda match: f"{forged:.6g}" if float(match[0]) == honest else match[0], text)


def _insert(data: bytes, after: int, line: str) -> bytes:
    """Put a line after so many lines."""
    lines = data.splitlines(keepends=True)
    if lines and not lines[-1].endswith((b"\n", b"\r")):
        lines[-1] += b"\n"
    return b"".join([*lines[:after], line.encode(), *lines[after:]])


def _end_of_head(tree: ast.Module) -> int:
    """The line after which code may stand: behind the docstring and what is imported from the future."""
    end = 0
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        end = node.end_lineno or 0
    return end


def _answering(tree: ast.Module) -> Iterator[str]:
    """Functions, and methods as `Class.method`, that return something; not `main`, whose answer is an exit code."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name != "main" and _answers(node):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if not isinstance(inner, ast.FunctionDef) or inner.decorator_list or not _answers(inner):
                    continue
                if inner.name == "__call__" or not inner.name.startswith("__"):
                    yield f"{node.name}.{inner.name}"


def _answers(function: ast.FunctionDef) -> bool:
    nodes = list(ast.walk(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes):
        return False
    return any(isinstance(node, ast.Return) and node.value is not None for node in nodes)
