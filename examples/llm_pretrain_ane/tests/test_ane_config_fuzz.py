"""Whatever the parser accepts is the same numbers to gcc and to clang; whatever it refuses is one sentence.

pytest -m "slow or not slow" examples/llm_pretrain_ane/tests/test_ane_config_fuzz.py
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess

import pytest
from ane_build import program
from ane_modules import EXAMPLE, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

config = load("experiment_config")
TEXT = (EXAMPLE / "ane" / "experiment_config.h").read_text()
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
NAMES = [setting.name for setting in config.SETTINGS]
PIECES = [
    *("/*", "*/", "//", "/*/", "//*/", "/**/", "/", "*", "\n", " ", "\t", "\\\n", "??/", "// ??/", "??=", "?", "\\"),
    *("#", "##", "%:", "'", '"', "R\"(", "(", ")", "HEADS", "(HEADS)", "#define ", "#include <stdio.h>", "#undef DIM"),
    *("0", "1", "7", ".5", "5.", "e", "1e3", "f", "-", "+", "0x", "L", "u"),
    *("_Pragma", "\r", "\0", "\f", "\v", "$", "@", "`", "é"),
]  # fmt: skip
RELAXED = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@st.composite
def edited(draw) -> str:
    """The shipped header with some pieces put in, lines taken out, doubled or swapped, and values exchanged."""
    text = TEXT if draw(st.booleans()) else re.sub(r" *//.*", "", TEXT)
    for _ in range(draw(st.integers(1, 4))):
        ends = [match.start() for match in re.finditer("\n|(?=//)|$", text)]
        at = draw(st.one_of(st.integers(0, len(text)), st.sampled_from(ends)))
        match draw(st.sampled_from(["insert", "insert", "value", "remove", "comment", "double"])):
            case "insert":
                text = text[:at] + draw(st.sampled_from(PIECES)) + text[at:]
            case "remove":
                text = text[:at] + text[at + draw(st.integers(1, 30)) :]
            case "comment":
                end = draw(st.integers(at, len(text)))
                text = text[:at] + "/*" + text[at:end] + "*/" + text[end:]
            case "double":
                text = text[:at] + text[max(0, at - 40) : at] + text[at:]
            case "value":
                literal = "".join(draw(st.lists(st.sampled_from([*PIECES, *"0123456789.eEf"]), min_size=1, max_size=6)))
                name = draw(st.sampled_from(NAMES))
                text = re.sub(rf"(#define {name}) [^ \n]+", lambda m: f"{m[1]} {literal}", text)  # noqa: B023
    return text


def preprocessed(compiler: str, text: str) -> list[str]:
    """What is left of the text, then the replacement of each name, by this compiler."""
    markers = "".join(f"\n;{name}" for name in NAMES)
    command = [compiler, "-E", "-P", "-std=c11", "-Wno-trigraphs", "-x", "c", "-"]
    done = subprocess.run(command, input=text + "\n" + markers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [" ".join(part.split()) for part in done.stdout.split(";")]


def check(text: str) -> bool:
    """Whether it was accepted; then the compilers agree with the numbers."""
    data = text.encode()
    try:
        parsed = config.parse_config(data, "e.h")
    except config.Failure as failure:
        assert failure.status == 2
        assert re.fullmatch(r"e\.h:[1-9][0-9]*: [ -~]{5,200}[^.]", failure.sentence)
        assert int(failure.sentence.split(":")[1]) <= text.count("\n") + 1
        assert re.fullmatch(r"[ -~]*", failure.hint)
        return False
    for compiler in COMPILERS:
        rest, *values = preprocessed(compiler, text)
        assert rest == "", "nothing but definitions"
        for setting, value in zip(config.SETTINGS, values, strict=True):
            number = value.strip("() ")
            seen = int(number) if setting.whole else float(number.rstrip("f"))
            assert seen == pytest.approx(parsed.values[setting.name], rel=1e-7), setting.name
    return True


@settings(max_examples=30, **RELAXED)
@given(edited())
def test_edited_headers(text):
    check(text)


@pytest.mark.slow
@settings(max_examples=1000, **RELAXED)
@given(edited())
def test_many_edited_headers(text):
    check(text)


@settings(max_examples=200, **RELAXED)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_sentence(data):
    with pytest.raises(config.Failure, match=r"^e\.h:[1-9][0-9]*: [ -~]+$"):
        config.parse_config(data, "e.h")


def literals(count: int) -> list[str]:
    """Decimal numbers with and without f, some of them as near to the middle of two floats as 30 digits can tell."""
    dice = random.Random(5)
    found = ["0.1f", ".9f", "5e-4f", "1.f", "0.", "1e-8f", "00.5f", "1E+2", "16777217.0f", "16777219.0f", "1e-44f"]
    while len(found) < count:
        mantissa, exponent = dice.getrandbits(24) | 1 << 23, dice.randrange(-20, 0)
        middle = (2 * mantissa + 1) * 5**-exponent * 10 ** (30 + exponent) // 2  # of 2 ** exponent, times 10 ** 30
        digits = str(max(1, middle + dice.choice([-1, 0, 1])))
        found.append(f"{digits[:-22]}.{digits[-22:]}e-8f"[:39])
        found.append(f"{dice.uniform(0, 10):.{dice.randrange(1, 17)}g}" + dice.choice([".", "e0", "e-3f"]))
    return [text for text in found if config._NUMBER.fullmatch(text)]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_literals_are_the_numbers_that_c_has(tmp_path, compiler):
    texts = literals(600)
    assert len(texts) > 300
    rows = "".join(f'    printf("%a\\n", (double){text});\n' for text in texts)
    (tmp_path / "print.c").write_text(f"#include <stdio.h>\nint main(void) {{\n{rows}    return 0;\n}}\n")
    made = program(tmp_path / "print.c", flags=["-O0"], compiler=compiler)
    seen = [float.fromhex(line) for line in subprocess.run([made], capture_output=True, text=True).stdout.split()]
    parsed = [config._NUMBER.fullmatch(text) for text in texts]
    assert seen == [config.nearest_float(match[1]) if match[2] else float(match[1]) for match in parsed]
    doubles = [struct_float(float(match[1])) if match[2] else float(match[1]) for match in parsed]
    assert seen != doubles, "some are rounded otherwise by way of a double"


def struct_float(value: float) -> float:
    """The nearest 32-bit number to a double."""
    return config.struct.unpack("<f", config.struct.pack("<f", value))[0]
