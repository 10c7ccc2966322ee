"""The parser of experiment_config.h: what it accepts, each sentence, and the header that is compiled.

pytest examples/llm_pretrain_ane/tests/test_ane_config.py
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import subprocess

import pytest
from ane_build import Problem, Settings, program, shared_object
from ane_modules import EXAMPLE, load

config = load("experiment_config")
HEADER = EXAMPLE / "ane" / "experiment_config.h"
TEXT = HEADER.read_text()


def changed(name: str, literal: str) -> str:
    """The shipped header with another value."""
    text, count = re.subn(rf"(#define {name}) [^ \n]+", rf"\1 {literal}", TEXT)
    assert count == 1
    return text


def parse(text: str | bytes):
    return config.parse_config(text if isinstance(text, bytes) else text.encode(), "e.h").values


def refusal(text: str | bytes) -> tuple[str, str]:
    with pytest.raises(config.Failure) as caught:
        parse(text)
    assert caught.value.status == 2 and re.match(r"e\.h:[0-9]+: [^\n]+[^.\n]$", caught.value.sentence)
    return caught.value.sentence.removeprefix("e.h:"), caught.value.hint


def test_the_shipped_values():
    values = parse(TEXT)
    assert list(values) == [setting.name for setting in config.SETTINGS], "in the order of the table"
    assert (values["DIM"], values["HIDDEN"], values["N_KV_HEADS"], values["TOTAL_STEPS"]) == (768, 2048, 12, 3000)
    assert config.parameter_count(values) == 67_053_312


@pytest.mark.parametrize("name", ["experiment_config.h", "experiment_config.cpu.h"])
@pytest.mark.parametrize("setting", config.SETTINGS, ids=lambda setting: setting.name)
def test_a_comment_begins_with_the_range(setting, name):
    comment = re.search(rf"#define {setting.name} +\S+ +// (.*)", HEADER.with_name(name).read_text())
    assert comment and re.match(re.escape(setting.range) + "[:;]", comment[1])


@pytest.mark.parametrize("setting", config.SETTINGS, ids=lambda setting: setting.name)
def test_beyond_either_end_is_refused(setting):
    step = 1 if setting.whole else setting.high / 1000
    sentence, _ = refusal(changed(setting.name, f"{setting.high + step}"))
    assert f"{setting.name} is " in sentence and setting.range in sentence
    if setting.low > 0:
        sentence, _ = refusal(changed(setting.name, "0" if setting.whole else f"{setting.low / 2!r}f"))
        assert f"{setting.name} is 0" in sentence or f"{setting.name} is {setting.low / 2!r}f" in sentence


@pytest.mark.parametrize("setting", [s for s in config.SETTINGS if not s.whole], ids=lambda setting: setting.name)
def test_both_ends_are_allowed_with_suffix_too(setting):
    for end in (setting.low, setting.high):
        for suffix in ("", "f"):
            assert parse(changed(setting.name, f"{float(end)!r}{suffix}"))[setting.name] == pytest.approx(end)


WRONG = {
    "include": ('#include "/etc/passwd"', "a quotation mark cannot be outside a comment"),
    "include of a system file": ("#include <stdio.h>", "#include <stdio.h> is no setting"),
    "pragma": ("#pragma once", "#pragma once is no setting"),
    "undef": ("#undef DIM", "#undef DIM is no setting"),
    "if": ("#if 0", "#if 0 is no setting"),
    "null directive": ("#", "# is no setting"),
    "digraph": ("%:define DIM 64", "%:define DIM 64 is no setting"),
    "code": ("int x;", "int x; is no setting"),
    "vocabulary": ("#define VOCAB 1", "there is no setting VOCAB"),
    "misspelt": ("#define LERNING_RATE 1e-3f", "there is no setting LERNING_RATE"),
    "function": ("#define DIM(x) 768", "DIM cannot take arguments"),
    "no value": ("#define DIM // 768", "DIM has no value"),
    "no name": ("#define", "#define is no setting"),
    "twice": ("#define HEADS 12", "HEADS is there twice"),
    "comment without end": ("/* 1\n2 *", "the comment that begins here does not end"),
    "comment that seems to end": ("/*/", "the comment that begins here does not end"),
    "define in a long line of a comment": ("/* */ 5 /*\n*/ #define", "5 #define is no setting"),
    "backslash": ("// \\\n", "a backslash cannot be here"),
    "trigraph": ("// ??/", "??/ is a trigraph"),
    "carriage return": ("// \r", "there is a carriage return"),
    "NUL": ("// \0", "byte 0x00 cannot be here"),
    "form feed": ("\f", "byte 0x0c cannot be here"),
    "byte order mark": ("\ufeff", "byte 0xef cannot be here"),
    "letters beyond ASCII": ("// β", "byte 0xce cannot be here"),
    "string that looks like a comment": ('#define DIM "/*"', "a quotation mark cannot be outside a comment"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_lines_are_refused_with_their_line(name):
    line, expected = WRONG[name]
    sentence, _ = refusal(f"{TEXT}\n\n{line}\n")
    assert sentence == f"{TEXT.count(chr(10)) + 3}: {expected}"


VALUES = {
    "expression": ("DIM", "768+32"),
    "two words": ("DIM", "768 32"),
    "sign": ("WEIGHT_DECAY", "-0.1f"),
    "octal": ("HEADS", "014"),
    "hexadecimal": ("HEADS", "0xc"),
    "suffix": ("HEADS", "12u"),
    "whole number with an f": ("SOFTCAP", "30f"),
    "other suffix": ("SOFTCAP", "30.0L"),
    "hexadecimal float": ("SOFTCAP", "0x1p4"),
    "lone point": ("SOFTCAP", "."),
    "no exponent": ("SOFTCAP", "1e"),
    "nan": ("SOFTCAP", "nan"),
    "infinity": ("SOFTCAP", "INFINITY"),
    "identifier": ("NLAYERS", "HEADS"),
    "other identifier": ("N_KV_HEADS", "DIM"),
    "brackets": ("DIM", "(768)"),
    "brackets twice": ("N_KV_HEADS", "((HEADS))"),
    "call": ("DIM", "_Pragma(x)"),
    "statement": ("DIM", "({768;})"),
    "pasting": ("DIM", "7##68"),
    "separator": ("TOTAL_STEPS", "3'000"),
    "underscore": ("TOTAL_STEPS", "3_000"),
    "comment within": ("DIM", "7/**/68"),
    "comment before the suffix": ("SOFTCAP", "30.0/**/f"),
    "very long": ("DIM", "9" * 60_000),
    "float for a whole number": ("HEADS", "12.0"),
    "float as a switch": ("USE_LION", "1.0f"),
    "too large for a float": ("LEARNING_RATE", "1e400f"),
    "infinite exponent": ("LEARNING_RATE", "1e-" + "9" * 30),
}


@pytest.mark.parametrize("name", VALUES)
def test_only_one_literal_of_its_kind_is_a_value(name):
    setting, literal = VALUES[name]
    line = TEXT[: TEXT.index(f"#define {setting} ")].count("\n") + 1
    sentence, _ = refusal(changed(setting, literal.replace("\\", "")))
    assert sentence.startswith(f"{line}: ") and len(sentence) < 150


TOGETHER = {
    "hidden": ({"HIDDEN": "768"}, "HIDDEN is 768, not more than DIM, 768"),
    "heads": ({"HEADS": "7"}, "HEADS is 7, and DIM / HEADS is not a multiple of 32"),
    "head size": ({"HEADS": "16"}, "HEADS is 16, and DIM / HEADS is not a multiple of 32"),
    "grouped": (
        {"N_KV_HEADS": "4"},
        "N_KV_HEADS is 4, not HEADS, 12: grouped heads crash the Neural Engine's compiler",
    ),
    "warm-up": ({"TOTAL_STEPS": "100"}, "TOTAL_STEPS is 100, not more than LR_WARMUP_STEPS, 100"),
    "length": ({"SEQ": "96"}, "SEQ is 96, not 32 to 1024, a power of two"),
    "width": ({"DIM": "100"}, "DIM is 100, not 32 to 4096, a multiple of 32"),
    "memory": (
        {"DIM": "4096", "HIDDEN": "16384", "HEADS": "32", "NLAYERS": "64"},
        "this model of 17,311 million parameters needs about 362.1 GB, more than 16",
    ),
    "activations": (
        {"DIM": "32", "HIDDEN": "16384", "HEADS": "1", "SEQ": "1024", "NLAYERS": "48"},
        "this model keeps 2,436 million activations, more than 2,147 million",
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_settings_that_do_not_go_together(name):
    changes, expected = TOGETHER[name]
    text = TEXT
    for setting, literal in changes.items():
        text = re.sub(rf"(#define {setting}) [^ \n]+", rf"\1 {literal}", text)
    assert re.fullmatch(f"[0-9]+: {re.escape(expected)}", refusal(text)[0])


def test_activations_are_counted_as_the_model_allocates_them():
    source = (EXAMPLE / "ane" / "model.c").read_text()
    of_dim, of_hidden = map(int, re.search(r"OF_DIM = (\d+), OF_HIDDEN = (\d+)", source).groups())
    values = {"DIM": 32, "HIDDEN": 64, "SEQ": 2, "NLAYERS": 3}
    assert config.activation_count(values) == 3 * 2 * (of_dim * 32 + of_hidden * 64)


def test_hints_name_the_nearest_and_the_allowed():
    assert refusal(f"{TEXT}#define LERNING_RATE 1e-3f\n")[1] == "did you mean LEARNING_RATE?"
    assert refusal(changed("HEADS", "7"))[1] == "for DIM 768 it can be 1, 2, 3, 4, 6, 8, 12, 24"
    assert refusal(changed("HEADS", "12.0"))[1] == "it is 1 to 128"


def test_the_header_at_toy_size():
    values = config.read_config(HEADER.with_name("experiment_config.cpu.h")).values
    assert [values[name] for name in ("DIM", "HIDDEN", "HEADS", "SEQ", "NLAYERS")] == [128, 384, 4, 128, 2]


def test_no_program_includes_it():
    assert not [path.name for path in EXAMPLE.glob("ane/*.c") if "experiment_config" in path.read_text()]
    headers = [path for path in EXAMPLE.glob("ane/*.h") if not path.name.startswith("experiment_config")]
    assert headers and not [path.name for path in headers if re.search("include.*experiment_config", path.read_text())]


def test_missing_settings_are_named():
    text = re.sub("#define (SEQ|SOFTCAP).*\n", "", TEXT)
    last = text.count("\n")
    assert refusal(text)[0] == f"{last}: SEQ and SOFTCAP missing"
    assert refusal("")[0] == "1: DIM and HIDDEN and HEADS missing"


def test_what_c_reads_the_same_is_accepted():
    text = TEXT.replace("#define DIM 768", "/* 'a' \"b\" //*\n*/ \t# /**/ define/**/DIM/*/ //*/768//*/* don't")
    assert parse(text) == parse(TEXT)
    assert parse(changed("N_KV_HEADS", "12")) == parse(changed("N_KV_HEADS", "HEADS")) == parse(TEXT)
    assert parse(changed("GRAD_CLIP_MAX", "1"))["GRAD_CLIP_MAX"] == 1
    assert parse(TEXT.rstrip("\n") + "// what is this??")


def test_more_than_64_kib_is_refused():
    assert refusal(TEXT + "//" + "x" * 65536)[0].endswith("the file has more than 65536 bytes")


@pytest.mark.parametrize("kind", ["missing", "link", "pipe", "folder"])
def test_only_a_plain_file_is_read(tmp_path, kind):
    path = tmp_path / "e.h"
    make = {"link": lambda: path.symlink_to(HEADER), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}
    make.get(kind, lambda: None)()
    with pytest.raises(config.Failure, match=r"^e\.h:1: this .*plain file") as caught:
        config.read_config(path, "e.h")
    assert caught.value.status == 2


def test_architecture_changes_with_architecture_alone():
    other = {"DIM": "384", "HIDDEN": "1024", "HEADS": "6", "SEQ": "256", "NLAYERS": "5", "USE_ROPE": "1"}

    def digest(name: str, literal: str) -> str:
        return config.parse_config(changed(name, literal).encode(), "e.h").architecture

    digests = {digest(name, literal) for name, literal in other.items()}
    assert len(digests) == len(other), "each has its own"
    same = {
        digest(name, literal) for name, literal in {"USE_LION": "0", "SOFTCAP": "20.f", "TOTAL_STEPS": "500"}.items()
    }
    assert len(same) == 1 and not same & digests and re.fullmatch("[0-9a-f]{16}", same.pop())


def random_value(setting, dice: random.Random) -> str:
    """Often an end, often large: that is where the limits are."""
    if not setting.whole:
        return repr(dice.choice([setting.low, setting.high, dice.uniform(setting.low, setting.high)]) + 0.0)
    value = dice.choice(
        [setting.low, setting.high, round(setting.low * (setting.high / max(1, setting.low)) ** dice.random())]
    )
    if setting.power_of_two:
        return str(1 << int(value).bit_length() - 1)
    return str(max(setting.low, value // setting.multiple * setting.multiple))


def test_whatever_is_accepted_settings_c_accepts_too():
    check = shared_object("settings.c", "base.c").settings_check
    check.restype = ctypes.c_bool
    dice = random.Random(7)
    accepted = 0
    while accepted < 400:
        values = {setting.name: random_value(setting, dice) for setting in config.SETTINGS}
        dim = int(values["DIM"])
        values["HEADS"] = str(dice.choice([n for n in range(1, 129) if dim % (32 * n) == 0]))
        values["N_KV_HEADS"] = "HEADS"
        text = "".join(f"#define {name} {literal}\n" for name, literal in values.items())
        try:
            parsed = config.parse_config(text.encode(), "e.h")
        except config.Failure as failure:
            assert re.match("e.h:[0-9]+: (HIDDEN|TOTAL_STEPS|this model) ", failure.sentence), failure.sentence
            continue
        fields = {setting.field: parsed.values[setting.name] for setting in config.SETTINGS}
        settings, problem = Settings(**fields, architecture=parsed.architecture.encode()), Problem()
        assert check(ctypes.byref(settings), ctypes.byref(problem)), (problem.text, values)
        accepted += 1


PRINT = r"""
#include <stdio.h>
#include "settings.h"
#include "config.h"
static const struct Settings settings = SETTINGS;
int main(void) {
    FIELDS
    printf("architecture=%s\n", settings.architecture);
    return 0;
}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_header_compiles_to_the_parsed_numbers(tmp_path, compiler):
    parsed = config.read_config(HEADER)
    config.write_header(parsed, tmp_path)
    prints = [f'printf("{s.field}=%a\\n", (double)settings.{s.field});' for s in config.SETTINGS]
    (tmp_path / "print.c").write_text(PRINT.replace("FIELDS", "\n    ".join(prints)))
    made = program(tmp_path / "print.c", flags=[f"-I{tmp_path}"], compiler=compiler)
    lines = subprocess.run([made], capture_output=True, text=True, check=True).stdout.splitlines()
    seen = dict(line.split("=") for line in lines)
    assert seen.pop("architecture") == parsed.architecture
    assert {name: float.fromhex(text) for name, text in seen.items()} == {
        setting.field: parsed.values[setting.name] for setting in config.SETTINGS
    }


def test_the_header_is_written_when_it_changes_and_what_it_made_goes(tmp_path):
    parsed = config.read_config(HEADER)
    config.write_header(parsed, tmp_path)
    (tmp_path / "train").touch()
    os.utime(tmp_path / "config.h", (1, 1))
    config.write_header(parsed, tmp_path)
    assert (tmp_path / "config.h").stat().st_mtime == 1 and (tmp_path / "train").exists()
    config.write_header(config.parse_config(changed("SEQ", "256").encode(), "e.h"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.h"]
    assert ".seq = 256" in (tmp_path / "config.h").read_text()
