"""Reads ane/experiment_config.h as data, by a whitelist, and writes the header that is compiled from the numbers alone.

What is accepted means the same numbers to a C compiler; whatever could mean something else to one is refused. The file
is ASCII, and holds comments, blank lines and `#define NAME literal`, each setting once. The first thing wrong is one
sentence with file and line, and nothing is written.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from failure import Failure

LIMIT_BYTES = 64 * 1024
LIMIT_LITERAL = 40  # characters
LIMIT_GB = 16.0  # what the largest model may need, so that no setting exhausts the machine
LIMIT_ACTIVATIONS = 1 << 31  # as settings.c has it
VOCAB = 32000  # as settings.h has it


@dataclass(frozen=True)
class Setting:
    """One macro. `field` is its name in settings.h; low and high are allowed."""

    name: str
    field: str
    low: float
    high: float
    multiple: int = 1
    power_of_two: bool = False
    whole: bool = True
    architecture: bool = False

    @property
    def range(self) -> str:
        """In words, as the comments in experiment_config.h say it."""
        if self.whole and self.high == 1:
            return "0 or 1"
        words = f"{self.low} to {self.high}" if self.whole else f"{self.low:g} to {self.high:g}"
        if self.multiple > 1:
            words += f", a multiple of {self.multiple}"
        return words + ", a power of two" * self.power_of_two


def _switch(name: str, field: str, architecture: bool = False) -> Setting:
    return Setting(name, field, 0, 1, architecture=architecture)


def _number(name: str, field: str, low: float, high: float) -> Setting:
    return Setting(name, field, low, high, whole=False)


SETTINGS = (
    Setting("DIM", "dim", 32, 4096, multiple=32, architecture=True),
    Setting("HIDDEN", "hidden", 64, 16384, multiple=32, architecture=True),
    Setting("HEADS", "heads", 1, 128, architecture=True),
    Setting("N_KV_HEADS", "kv_heads", 1, 128, architecture=True),
    Setting("SEQ", "seq", 32, 1024, power_of_two=True, architecture=True),
    Setting("NLAYERS", "layers", 1, 64, architecture=True),
    _switch("USE_ROPE", "rope", architecture=True),
    _switch("USE_LION", "lion"),
    _number("LEARNING_RATE", "learning_rate", 1e-8, 1),
    _number("ADAM_BETA1", "beta1", 0, 0.9999),
    _number("ADAM_BETA2", "beta2", 0, 0.99999),
    _number("ADAM_EPS", "epsilon", 1e-12, 1e-2),
    _number("WEIGHT_DECAY", "weight_decay", 0, 10),
    _number("GRAD_CLIP_MAX", "grad_clip", 1e-4, 1e6),
    _number("EMBED_LR_SCALE", "embed_lr_scale", 0, 100),
    _number("MATRIX_LR_SCALE", "matrix_lr_scale", 0, 100),
    Setting("TOTAL_STEPS", "total_steps", 1, 10_000_000),
    Setting("LR_WARMUP_STEPS", "warmup_steps", 0, 1_000_000),
    _number("LR_MIN_FRAC", "lr_min_frac", 0, 1),
    Setting("ACCUM_STEPS", "accum_steps", 1, 1024),
    Setting("ACCUM_RAMP_STEPS", "accum_ramp_steps", 0, 1_000_000),
    _number("LOSS_SCALE", "loss_scale", 1, 32768),
    _number("SOFTCAP", "softcap", 1, 1000),
    _number("MAX_ACT", "max_act", 0, 60000),
    _switch("USE_VOCAB_COMPACT", "vocab_compact"),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

_TRIGRAPH = re.compile(rb"\?\?[=/'()!<>-]")
_DEFINE = re.compile(r"[ \t]*#[ \t]*define[ \t]+([A-Za-z_][A-Za-z0-9_]*)(.*)")
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_NUMBER = re.compile(r"((?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?)([fF]?)")
_HEADS = re.compile(r"HEADS|\([ \t]*HEADS[ \t]*\)")


@dataclass(frozen=True)
class Config:
    """The settings by name: int for whole ones, else the number that the literal is in C (rounded to float by an f)."""

    values: Mapping[str, int | float]

    @property
    def architecture(self) -> str:
        """16 hex digits that change with whatever resets the checkpoint, and with nothing else."""
        pairs = sorted((s.name, self.values[s.name]) for s in SETTINGS if s.architecture)
        return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]

    def header(self) -> str:
        """config.h: SETTINGS, an initialiser of struct Settings."""
        fields = [f".{s.field} = {self.values[s.name]!r}" for s in SETTINGS]
        lines = ", \\\n    ".join([*fields, f'.architecture = "{self.architecture}"'])
        return f"/* Written by harness_ane.py. */\n#define SETTINGS {{ \\\n    {lines}}}\n"


def read_config(path: Path, name: str = "") -> Config:
    """The checked settings of the file, which sentences call `name`. Failure with status 2 for anything wrong."""
    name = name or str(path)
    return parse_config(_bytes(path, name), name)


def parse_config(data: bytes, name: str) -> Config:
    """The same of the file's bytes."""
    text = _checked_text(data, name)
    values: dict[str, int | float] = {}
    lines: dict[str, int] = {}
    same_as_heads = False
    for line, directive in _logical_lines(text, name):
        setting, literal = _definition(directive, f"{name}:{line}")
        if setting.name in values:
            raise _refused(name, line, f"{setting.name} is there twice", f"it is on line {lines[setting.name]} already")
        lines[setting.name] = line
        if setting.name == "N_KV_HEADS" and _HEADS.fullmatch(literal):
            same_as_heads, values[setting.name] = True, 0
        else:
            values[setting.name] = _value(setting, literal, f"{name}:{line}")
    missing = [setting.name for setting in SETTINGS if setting.name not in values]
    if missing:
        last = text.count("\n") + (not text.endswith("\n"))
        raise _refused(name, max(1, last), f"{' and '.join(missing[:3])} missing", "each setting has one line")
    if same_as_heads:
        values["N_KV_HEADS"] = values["HEADS"]
    _check_together(values, lines, name)
    return Config(values)


def write_header(config: Config, build: Path) -> None:
    """BUILD/config.h, and no older train.o or train beside it. Nothing is touched where it says the same already."""
    path, text = build / "config.h", config.header()
    if path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode():
        return
    for made in ("train", "train.o"):  # make compares times, and some clocks of file systems count seconds
        (build / made).unlink(missing_ok=True)
    part = build / f"config.h.{os.getpid()}.tmp"
    part.write_text(text)
    part.replace(path)


def needed_gb(values: Mapping[str, int | float]) -> float:
    """About what training holds at most: weights, gradients, two moments, copies in half precision, activations."""
    hidden, heads, seq, layers = (int(values[name]) for name in ("HIDDEN", "HEADS", "SEQ", "NLAYERS"))
    parameters = parameter_count(values)
    activations = activation_count(values) + layers * hidden * seq + 3 * VOCAB * seq + 3 * heads * seq * seq
    return (parameters * (4 * 4 + 2 * 2) + activations * 4) / 1e9


def activation_count(values: Mapping[str, int | float]) -> int:
    """Numbers that a model keeps per layer and token, as settings.c counts them."""
    dim, hidden, seq, layers = (int(values[name]) for name in ("DIM", "HIDDEN", "SEQ", "NLAYERS"))
    return layers * seq * (13 * dim + 3 * hidden)


def parameter_count(values: Mapping[str, int | float]) -> int:
    """Of the whole model with its full embedding, which is the classifier too."""
    dim, hidden, layers = (int(values[name]) for name in ("DIM", "HIDDEN", "NLAYERS"))
    return layers * (4 * dim * dim + 3 * dim * hidden + 2 * dim) + dim + VOCAB * dim


# ----------------------------------------------------------------------------------------------------------------------
# From bytes to lines


def _refused(name: str, line: int, sentence: str, hint: str = "") -> Failure:
    return Failure(f"{name}:{line}: {sentence}", hint, status=2)


def _bytes(path: Path, name: str) -> bytes:
    try:
        # Not through a link, and without waiting for a pipe's other end.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(name, 1, "this is not a plain file")
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise _refused(name, 1, f"this cannot be read as a plain file ({error.strerror})") from None


def _checked_text(data: bytes, name: str) -> str:
    if len(data) > LIMIT_BYTES:
        raise _refused(name, data.count(b"\n") + 1, f"the file has more than {LIMIT_BYTES} bytes")
    bad = re.search(rb"[^\t\n\x20-\x7e]|\\", data)
    trigraph = _TRIGRAPH.search(data)
    found = min((match for match in (bad, trigraph) if match), key=lambda match: match.start(), default=None)
    if found is None:
        return data.decode("ascii")
    line = data.count(b"\n", 0, found.start()) + 1
    if found is trigraph:
        raise _refused(name, line, f"{found[0].decode()} is a trigraph", "write a space between the question marks")
    if found[0] == b"\\":
        raise _refused(name, line, "a backslash cannot be here", "a setting is one line")
    if found[0] == b"\r":
        raise _refused(name, line, "there is a carriage return", "lines end with a line feed alone")
    raise _refused(name, line, f"byte 0x{found[0][0]:02x} cannot be here", "the file is plain ASCII text")


def _logical_lines(text: str, name: str) -> list[tuple[int, str]]:
    """(line, text) of each line that holds more than comments and space; a comment is a space, also over line ends."""
    found: list[tuple[int, str]] = []
    line = first = 1
    current = ""
    at = 0
    while at <= len(text):
        if at == len(text) or text[at] == "\n":
            if current.strip():
                found.append((first, current))
            current, line, at = "", line + 1, at + 1
        elif text.startswith("//", at):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                raise _refused(name, line, "the comment that begins here does not end")
            line += text.count("\n", at, end)
            current, at = current + " ", end + 2
        else:
            if text[at] in "\"'":
                raise _refused(name, line, "a quotation mark cannot be outside a comment")
            if not current.strip():
                first = line
            current, at = current + text[at], at + 1
    return found


# ----------------------------------------------------------------------------------------------------------------------
# From lines to numbers


def _definition(directive: str, where: str) -> tuple[Setting, str]:
    """The setting and its literal, unchecked."""
    match = _DEFINE.fullmatch(directive)
    if match is None:
        raise Failure(
            f"{where}: {_clip(directive)} is no setting", "only comments and `#define NAME literal` can be here", 2
        )
    name, rest = match[1], match[2]
    if name not in BY_NAME:
        near = difflib.get_close_matches(name.upper(), BY_NAME, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(BY_NAME)}"
        raise Failure(f"{where}: there is no setting {_clip(name)}", hint, 2)
    if rest.startswith("("):
        raise Failure(f"{where}: {name} cannot take arguments", f"#define {name} literal", 2)
    if not rest.strip(" \t"):
        raise Failure(f"{where}: {name} has no value", f"{name} is {BY_NAME[name].range}", 2)
    if rest[0] not in " \t":
        raise Failure(f"{where}: there is no space after {name}", f"#define {name} literal", 2)
    return BY_NAME[name], rest.strip(" \t")


def _value(setting: Setting, literal: str, where: str) -> int | float:
    """The number of the literal, in its range."""
    whole, number = _WHOLE.fullmatch(literal), _NUMBER.fullmatch(literal)
    if len(literal) > LIMIT_LITERAL or not (whole or number):
        kind = "whole number, such as 12" if setting.whole else "number, such as 0.5f or 1e-4f"
        raise Failure(f"{where}: {setting.name} is {_clip(literal)}, not one literal", f"write one {kind}", 2)
    if setting.whole and not whole:
        raise Failure(f"{where}: {setting.name} is {literal}, not a whole number", f"it is {setting.range}", 2)
    value = int(literal) if setting.whole else float(number[1] if number else literal)
    fits = setting.low <= value <= setting.high
    if setting.whole:
        fits &= value % setting.multiple == 0 and not (setting.power_of_two and int(value) & int(value) - 1)
    if not fits:
        raise Failure(f"{where}: {setting.name} is {literal}, not {setting.range}", status=2)
    return nearest_float(number[1]) if number and number[2] else value


def nearest_float(text: str) -> float:
    """The 32-bit number nearest to the decimal one, ties to even, as a C compiler rounds; by way of a double it could
    be the wrong neighbour. The text is below 3e38."""
    bits = struct.unpack("<I", struct.pack("<f", float(text)))[0]
    exact = Fraction(text) if float(text) else Fraction(0)
    near = [struct.unpack("<f", struct.pack("<I", b))[0] for b in (bits, bits + 1, max(bits, 1) - 1)]
    return min(near, key=lambda value: (abs(Fraction(value) - exact), struct.pack("<f", value)[0] & 1))


def _check_together(values: Mapping[str, int | float], lines: Mapping[str, int], name: str) -> None:
    dim, hidden, heads, grouped = (values[key] for key in ("DIM", "HIDDEN", "HEADS", "N_KV_HEADS"))
    if hidden <= dim:
        raise _refused(name, lines["HIDDEN"], f"HIDDEN is {hidden}, not more than DIM, {dim}")
    if dim % heads or dim // heads % 32:
        fitting = [str(n) for n in range(1, 129) if dim % (32 * n) == 0]
        raise _refused(
            name,
            lines["HEADS"],
            f"HEADS is {heads}, and DIM / HEADS is not a multiple of 32",
            f"for DIM {dim} it can be {', '.join(fitting)}",
        )
    if grouped != heads:
        raise _refused(
            name,
            lines["N_KV_HEADS"],
            f"N_KV_HEADS is {grouped}, not HEADS, {heads}: grouped heads crash the Neural Engine's compiler",
            "#define N_KV_HEADS (HEADS)",
        )
    if values["TOTAL_STEPS"] <= values["LR_WARMUP_STEPS"]:
        raise _refused(
            name,
            lines["TOTAL_STEPS"],
            f"TOTAL_STEPS is {values['TOTAL_STEPS']}, not more than LR_WARMUP_STEPS, {values['LR_WARMUP_STEPS']}",
        )
    if needed_gb(values) > LIMIT_GB:
        raise _refused(
            name,
            lines["NLAYERS"],
            f"this model of {parameter_count(values) / 1e6:,.0f} million parameters needs about "
            f"{needed_gb(values):,.1f} GB, more than {LIMIT_GB:g}",
            "lower DIM, HIDDEN or NLAYERS",
        )
    if activation_count(values) > LIMIT_ACTIVATIONS:
        raise _refused(
            name,
            lines["NLAYERS"],
            f"this model keeps {activation_count(values) / 1e6:,.0f} million activations, "
            f"more than {LIMIT_ACTIVATIONS / 1e6:,.0f} million",
            "lower SEQ, HIDDEN or NLAYERS",
        )


def _clip(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LIMIT_LITERAL else text[: LIMIT_LITERAL - 3] + "..."
