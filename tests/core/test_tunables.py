"""python -m pytest tests/core/test_tunables.py"""

from __future__ import annotations

import configparser
import math
import string
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.tunables import Tunable, Value, keys, read, read_all, write

WIDE = {"low": -1e300, "high": 1e300}


def tun(file: str, name: str, *choices: Value, **more: Any) -> Tunable:
    return Tunable(file=file, name=name, choices=choices or None, **(more if choices or more else WIDE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs low and high, or choices"),
        ({"low": 1}, "needs low and high"),
        ({"low": 1, "high": 1}, "not below its high"),
        ({"low": 0, "high": 1, "log": True}, "begins above zero"),
        ({"low": 1, "high": 8, "log": True, "step": 1}, "do not go together"),
        ({"low": 1, "high": 8, "step": 0}, "not above zero"),
        ({"low": 1, "high": 8, "choices": [1]}, "give one of them"),
        ({"choices": []}, "empty list"),
        ({"choices": [1, 1]}, "a choice twice"),
        ({"choices": [float("nan")]}, "not finite"),
        ({"low": True, "high": 2}, "not a finite number"),
        ({"low": float("-inf"), "high": 2}, "not a finite number"),
        ({"low": "a", "high": 2}, "'a' is not a finite number"),
        ({"low": 1, "high": 2, "lo": 3}, "Extra"),
    ],
)
def test_what_a_tunable_may_say(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tunable(file="a.py", name="X", **fields)


def test_types_are_kept() -> None:
    tunable = tun("a.py", "X", 1, 1.0, "1", True)
    assert [type(choice) for choice in tunable.choices or ()] == [int, float, str, bool]
    assert tun("a.py", "X", low=1, high=8).whole and not tun("a.py", "X", low=1, high=8.0).whole
    assert tun("a.py", "X", low="1e-5", high=1).low == 1e-5  # YAML 1.1 reads 1e-5 as a string
    assert tun("a.py", "X", "3e-4").choices == (3e-4,)
    assert hash(tunable) == hash(tun("a.py", "X", 1, 1.0, "1", True))


CASES: list[tuple[str, str, Tunable, Value, Value, str]] = [
    # file's text, tunable, its value, the new one, the new text
    ("int", "A = 1\nDEPTH = 8  # layers\n", tun("t.py", "DEPTH", low=1, high=9), 8, 4, "A = 1\nDEPTH = 4  # layers\n"),
    ("annotated", "X: float = -1.5\n", tun("t.py", "X"), -1.5, 2, "X: float = 2.0\n"),
    ("declared", "X: float\nX = 1.5\n", tun("t.py", "X"), 1.5, 1e-05, "X: float\nX = 1e-05\n"),
    ("bytes", "Ä = 'ö'; X = 'é'\n", tun("t.py", "X", "é", "ü'"), "é", "ü'", "Ä = 'ö'; X = 'ü\\''\n"),
    ("crlf", "A = 1\r\nX = 'a'\r\n", tun("t.py", "X", "a", 'b"'), "a", 'b"', "A = 1\r\nX = 'b\"'\r\n"),
    ("bom", "\ufeffX = 1\n", tun("t.py", "X", low=1, high=9), 1, 2, "\ufeffX = 2\n"),
    ("paren", "X = ( 1 )\n", tun("t.py", "X", 1, -1), 1, -1, "X = ( -1 )\n"),
    ("bool", "X = True\n", tun("t.py", "X", True, False), True, False, "X = False\n"),
    ("no quotes yet", "X = 1\n", tun("t.py", "X", 1, "a"), 1, "a", 'X = "a"\n'),
    ("inner", "X = 1\ndef f(X=2):\n    X = 3\n", tun("t.py", "X", 1, 2), 1, 2, "X = 2\ndef f(X=2):\n    X = 3\n"),
    ("in a string", '"""\nX = 1\n"""\nX = 2\n', tun("t.py", "X", 1, 2), 2, 1, '"""\nX = 1\n"""\nX = 1\n'),
    ("float by choice", "X = 1.0\n", tun("t.py", "X", 1, 2), 1, 2, "X = 2.0\n"),
    ("both kinds", "X = 1.0\n", tun("t.py", "X", 1, 1.0), 1.0, 1, "X = 1\n"),
    ("float suffix", "#define LR 5e-4f // s\n", tun("t.cu", "LR"), 5e-4, 1, "#define LR 1.0f // s\n"),
    ("int suffix", "#  define\tN  (8UL)/**/\r\n", tun("t.h", "N", low=1, high=9), 8, 4, "#  define\tN  (4UL)/**/\r\n"),
    ("negative", "#define N (( -1.5F ))\n", tun("t.m", "N"), -1.5, 0.25, "#define N (( 0.25F ))\n"),
    ("hex", "#define N 0x1Fu\n", tun("t.c", "N", low=1, high=99), 31, 32, "#define N 32u\n"),
    ("octal", "#define N 010\n", tun("t.c", "N", low=1, high=99), 8, 7, "#define N 7\n"),
    ("word", "#define T float // int\n", tun("t.mm", "T", "float", "int"), "float", "int", "#define T int // int\n"),
    ("quoted", '#define T "a"\n', tun("t.cc", "T", "a", "b c"), "a", "b c", '#define T "b c"\n'),
    ("switch", "#define T true\n", tun("t.cc", "T", True, False), True, False, "#define T false\n"),
    ("no switch", "#define T true\n", tun("t.cc", "T", "true", "false"), "true", "false", "#define T false\n"),
    (
        "commented out",
        '// #define N 1\n/*\n#define N 2\n*/ const char *s = "/*";\n#define N 3\n#define N2 4\n#define M N\n',
        tun("t.cpp", "N", low=1, high=9),
        3,
        5,
        '// #define N 1\n/*\n#define N 2\n*/ const char *s = "/*";\n#define N 5\n#define N2 4\n#define M N\n',
    ),
    ("raw string", 'auto s = R"(\n#define N 1\n)";\n#define N 2\n', tun("t.cpp", "N", 1, 2), 2, 1, 'auto s = R"(\n#define N 1\n)";\n#define N 1\n'),  # noqa: E501
    ("top", "x = 1 # x = 2\ny = nan\n", tun("t.toml", "x", low=0, high=9), 1, 2, "x = 2 # x = 2\ny = nan\n"),
    ("table", "lr=1\n[o]\r\nlr = 5e-4\t# lr\r\n", tun("t.toml", "o.lr"), 5e-4, 1, "lr=1\n[o]\r\nlr = 1.0\t# lr\r\n"),
    ("dotted", "opt.lr = 1\nlr = 2\n", tun("t.toml", "opt.lr", 1, 3), 1, 3, "opt.lr = 3\nlr = 2\n"),
    ("inline", "opt = {lr = 1, b = 'x'}\n", tun("t.toml", "opt.b", "x", "y"), "x", "y", "opt = {lr = 1, b = 'y'}\n"),
    ("tables", "[[a]]\nx=1\n[[a]]\nx=2\n", tun("t.toml", "a.1.x", 2, 3), 2, 3, "[[a]]\nx=1\n[[a]]\nx=3\n"),
    ("in text", 'd = """\nx = 1\n"""\n"x" = true\n', tun("t.toml", "x", True, False), True, False, 'd = """\nx = 1\n"""\n"x" = false\n'),  # noqa: E501
    ("block", "a: 1 # a\nb:\n  a:  2   # b\n", tun("t.yaml", "b.a", 2, 3), 2, 3, "a: 1 # a\nb:\n  a:  3   # b\n"),
    ("flow", "b: {a: 2, c: [x, y]}\r\n", tun("t.yml", "b.c.1", "y", "n"), "y", "n", 'b: {a: 2, c: [x, n]}\r\n'),
    ("a word YAML takes for false", "a: x\n", tun("t.yaml", "a", "x", "no"), "x", "no", 'a: "no"\n'),
    ("yes", "a: Yes\n", tun("t.yaml", "a", True, False), True, False, "a: No\n"),
    ("quotes", "a: 'it''s'\n", tun("t.yaml", "a", "it's", "a'b"), "it's", "a'b", "a: 'a''b'\n"),
    ("1.1 float", "a: 1e-4\n", tun("t.yaml", "a"), 1e-4, 1e-5, "a: 1.0e-05\n"),
    ("umlauts", "ä: ö\na: ü # ß\n", tun("t.yaml", "a", "ü", "y z"), "ü", "y z", 'ä: ö\na: "y z" # ß\n'),
    ("section", "[a]\nx = 1\n[b]\nx : 2 ; x\n", tun("t.ini", "b.x", 2, 3), 2, 3, "[a]\nx = 1\n[b]\nx : 3 ; x\n"),
    ("only section", "[a]\r\nx=on\r\n", tun("t.cfg", "x", True, False), True, False, "[a]\r\nx=off\r\n"),
    ("continued", "[a]\ny = 1\n  x = 2\nx = 3\n", tun("t.ini", "a.x", 3, 4), 3, 4, "[a]\ny = 1\n  x = 2\nx = 4\n"),
    ("texts", "[a]\nx = 8\n", tun("t.ini", "x", "8", "16"), "8", "16", "[a]\nx = 16\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tunable", "value", "new", "after"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_in_place(text: str, tunable: Tunable, value: Value, new: Value, after: str) -> None:
    found = read(text, tunable)
    assert (found, type(found)) == (value, type(value)) or (tunable.choices is None and found == value)
    assert write(text, tunable, new) == after
    assert read(after, tunable) == new
    assert write(text, tunable, value) == text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.py", "Y = 1\n", "t.py: X is not found as a constant at the top level"),
        ("t.py", "X = 1\n\nX = 2\n", "t.py: X is found twice, in lines 1 and 3"),
        ("t.py", "X = 1\nX += 2\n", "found twice"),
        ("t.py", "X = 1\nif a:\n    X = 2\n", "found twice"),
        ("t.py", "X = 1\nfor X in a: pass\n", "found twice"),
        ("t.py", "class A:\n    X = 1\n", "not found"),
        ("t.py", "Y = [X for X in a]\n", "not found"),
        ("t.py", "X = Y = 1\n", "not a plain literal"),
        ("t.py", "X, Y = 1, 2\n", "not a plain literal"),
        ("t.py", "X = 2**19\n", "not a plain literal"),
        ("t.py", "X = None\n", "not a plain literal"),
        ("t.py", "X = ('a'\n'b')\n", "not a plain literal"),
        ("t.py", "X = 'a'\n", "is 'a', and a range needs a number"),
        ("t.py", "X = True\n", "a range needs a number"),
        ("t.py", "X = 1e999\n", "not finite"),
        ("t.py", "X = (\n", "t.py cannot be read for X: "),
        ("t.h", "#define X(a) 1\n", "not found as a #define"),
        ("t.h", "//#define X 1\n", "not found"),
        ("t.h", "// \\\n#define X 1\n", "not found"),
        ("t.h", "#define X\n", "not a plain literal"),
        ("t.h", "#define X 1 + 2\n", "not a plain literal"),
        ("t.h", "#define X 1 \\\n + 2\n", "not a plain literal"),
        ("t.h", "#ifdef A\n#define X 1\n#else\n#define X 2\n#endif\n", "found twice"),
        ("t.toml", "y = 1\n", "not found"),
        ("t.toml", "X = [1]\n", "not found"),
        ("t.toml", 'X = """1"""\n', "not a plain literal"),
        ("t.toml", "X = 1\nX = 2\n", "cannot be read"),
        ("t.toml", "X = 2020-01-01\n", "not a plain literal"),
        ("t.yaml", "X:\n", "not a plain literal"),
        ("t.yaml", "X: 1\nX: 2\n", "found twice"),
        ("t.yaml", "X: &a 1\nY: *a\n", "not a plain literal"),
        ("t.yaml", "X: |\n  1\n", "not a plain literal"),
        ("t.yaml", "X: [\n", "cannot be read"),
        ("t.yaml", "", "not found"),
        ("t.ini", "X = 1\n", "cannot be read"),
        ("t.ini", "[a]\nX = 1\nX = 2\n", "cannot be read"),
        ("t.ini", "[a]\nX = 1\n[b]\nx=1\n", "not found"),
        ("t.ini", "[a]\nX = 1\n  2\n", "not a plain literal"),
        ("t.ini", "[a]\nX\n", "not a plain literal"),
        ("t.json", "{}", "unknown kind"),
    ],
)
def test_errors_say_what_is_wrong(file: str, text: str, message: str) -> None:
    with pytest.raises(ArkError) as caught:
        read(text, tun(file, "X"))
    assert message in caught.value.message and not caught.value.message.endswith(".")


@pytest.mark.parametrize(
    ("text", "tunable", "value"),
    [
        ("#define X 8u\n", tun("t.h", "X"), 1.5),
        ('#define X "a"\n', tun("t.h", "X", "a", 'b"'), 'b"'),
        ("#define X a\n", tun("t.h", "X", "a", "b c"), "b c"),
        ("[a]\nX = a\n", tun("t.ini", "X", "a", "b ; c"), "b ; c"),
        ("[a]\nX = a\n", tun("t.ini", "X", "a", ""), ""),
    ],
)
def test_what_cannot_be_written_is_refused(text: str, tunable: Tunable, value: Value) -> None:
    with pytest.raises(ArkError, match="cannot be set to"):
        write(text, tunable, value)
    with pytest.raises(ArkError):
        read_all({tunable.file: text}, [tunable])


def test_read_all() -> None:
    tunables = [tun("a.py", "X", 1, 2), tun("b.py", "X", 1, 2), tun("b.py", "Y")]
    assert keys(tunables) == ["a.py:X", "b.py:X", "Y"]
    files = {"a.py": "X = 1", "b.py": "X = 2\nY = 3"}
    assert read_all(files, tunables) == {"a.py:X": 1, "b.py:X": 2, "Y": 3.0}
    with pytest.raises(ArkError, match="listed twice"):
        read_all(files, [tunables[0], tunables[0]])
    with pytest.raises(ArkError, match="does not exist"):
        read_all({}, tunables)


NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6).map(lambda name: "k" + name)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, max_value=1e290, min_value=-1e290)
INTS = st.integers(-(10**18), 10**18)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.text(string.ascii_letters + string.digits + "_", max_size=8).map(lambda name: "w" + name)
EOL = st.sampled_from(["\n", "\r\n"])
COMMENT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="\\"), max_size=10
)


VALUES = FLOATS | INTS | st.booleans()


def plain(value: Value) -> str:
    """JSON is close enough to all of the formats for numbers and words."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def turn(text: tuple[str, str, str], file: str, name: str, old: Value, new: Value) -> str:
    """Write `new` in place of the middle part, and check all that holds for every format."""
    head, shown, tail = text
    tunable = tun(file, name, *{(type(value), value): value for value in (old, new)}.values())
    assert read(head + shown + tail, tunable) == old
    after = write(head + shown + tail, tunable, new)
    assert after.startswith(head) and after.endswith(tail)
    assert read(after, tunable) == new and type(read(after, tunable)) is type(new)
    return after


@settings(deadline=None, max_examples=100)
@given(NAMES, VALUES | TEXTS, VALUES | TEXTS, COMMENT, EOL)
def test_python(name: str, old: Value, new: Value, comment: str, eol: str) -> None:
    head, tail = f"# {comment}{eol}Other = '\u00e9'; {name} = ", f"  # {comment}{eol}Last = 2{eol}"
    space: dict[str, Any] = {}
    exec(turn((head, repr(old), tail), "t.py", name, old, new), space)
    assert (space["Other"], space[name], space["Last"]) == ("\u00e9", new, 2)


@settings(deadline=None, max_examples=100)
@given(NAMES, FLOATS, FLOATS, st.sampled_from(["", "f", "F", "l"]), COMMENT, EOL)
def test_c(name: str, old: float, new: float, suffix: str, comment: str, eol: str) -> None:
    assume("*/" not in comment)
    head = f"/* {comment} {eol}#define {name} 1 */{eol}#define {name}2 3{eol}#define {name} ("
    tail = f'{suffix}) // {comment}{eol}char c[] = "//";'
    assert turn((head, repr(old), tail), "t.cuh", name, old, new) == head + repr(new) + tail


@settings(deadline=None, max_examples=100)
@given(NAMES, NAMES, VALUES | WORDS, VALUES | TEXTS, COMMENT, EOL)
def test_toml(table: str, name: str, old: Value, new: Value, comment: str, eol: str) -> None:
    assume(name != table)
    shown = f'"{old}"' if isinstance(old, str) else plain(old)
    head = f"{name} = 1 # {comment}{eol}other = '{name} = 2'{eol}[{table}]{eol}{name} =\t"
    after = turn((head, shown, f" # {comment}{eol}Last = 3{eol}"), "t.toml", f"{table}.{name}", old, new)
    assert tomllib.loads(after) == {name: 1, "other": f"{name} = 2", table: {name: new, "Last": 3}}


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(NAMES, NAMES, VALUES | WORDS, VALUES | TEXTS, COMMENT, EOL)
def test_yaml(table: str, name: str, old: Value, new: Value, comment: str, eol: str) -> None:
    assume(comment.isprintable())
    shown = f"'{old}'" if isinstance(old, str) else plain(old)
    if isinstance(old, float) and "." not in shown:  # PyYAML itself reads 1e+22 as a string
        shown = shown.replace("e", ".0e")
    head = f"# {comment}{eol}{table}:{eol}  First: 'Stra\u00dfe'{eol}  {name}:   "
    tail = f"  # {comment}{eol}  Last: [1, {{{name}: 2}}]{eol}"
    after = turn((head, shown, tail), "t.yaml", f"{table}.{name}", old, new)
    assert yaml.safe_load(after) == {table: {"First": "Stra\u00dfe", name: new, "Last": [1, {name: 2}]}}


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(NAMES, NAMES, VALUES | WORDS, VALUES | WORDS, COMMENT, EOL)
def test_ini(table: str, name: str, old: Value, new: Value, comment: str, eol: str) -> None:
    assume(comment.isprintable())
    head = f"; {comment}{eol}[A]{eol}{name}=1{eol}[{table}]{eol}First = {name} = 5{eol}{name} =  "
    after = turn((head, plain(old), f"  # {comment}{eol}Last = 2{eol}"), "t.ini", f"{table}.{name}", old, new)
    parser = configparser.RawConfigParser(inline_comment_prefixes=("#",))
    parser.read_string(after)
    assert dict(parser["A"]) == {name: "1"}
    assert dict(parser[table]) == {"first": f"{name} = 5", name: parser[table][name], "last": "2"}


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60), st.sampled_from(["t.py", "t.h", "t.toml", "t.yaml", "t.ini"]))
def test_any_text_is_read_or_refused(text: str, file: str) -> None:
    tunable = tun(file, "X")
    try:
        value = read(text, tunable)
    except ArkError:
        return
    assert isinstance(value, int | float) and math.isfinite(value)
