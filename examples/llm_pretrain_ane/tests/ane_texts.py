"""Small programs in MIL text, statement by statement, for the tests."""

from __future__ import annotations

from collections.abc import Sequence

from ane_programs import Text


def halves(*dims: int) -> str:
    """The type of a tensor."""
    return f"tensor<fp16, {list(dims)}>"


def const(kind: str, name: str, value: object) -> str:
    """A constant of a scalar type, or a list of int32."""
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return f'{kind} {name} = const()[name = string("{name}"), val = {kind}({written})];'


def ints(name: str, values: Sequence[int]) -> str:
    """A constant list of int32."""
    return const(f"tensor<int32, [{len(values)}]>", name, list(values))


def let(kind: str, name: str, call: str) -> str:
    """A statement."""
    return f'{kind} {name} = {call}[name = string("{name}")];'


def program(inputs: str, statements: Sequence[str], outputs: str, files: dict[str, bytes] | None = None) -> Text:
    """In the newer dialect; line 4 has the inputs, and the statements have a line each."""
    lines = [
        "program(1.3)",
        '[buildInfo = dict<string, string>({{"coremltools-version", "9.0"}})]',
        "{",
        f"    func main<ios18>({inputs}) {{",
        *(f"        {statement}" for statement in statements),
        f"    }} -> ({outputs});",
        "}",
    ]
    return Text("\n".join(lines) + "\n", files or {})
