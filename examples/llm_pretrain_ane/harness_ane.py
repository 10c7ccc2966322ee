"""One cycle: checks ane/experiment_config.h, builds, trains within the wall time, evaluates, and prints the results.

    python3 harness_ane.py --wall-time 300           # all of it; then `grep ^val_loss:`
    python3 harness_ane.py train                     # the first half: leaves candidate.ckpt beside this file
    python3 harness_ane.py evaluate --split holdout  # the second half: of candidate.ckpt, whatever the header says now
    python3 harness_ane.py --lineage runs            # goes on from runs/kept.ckpt, leaves runs/candidate.ckpt
    python3 harness_ane.py keep --lineage runs       # makes the candidate the kept one

The evaluation takes the checkpoint as data and its own program from the sources alone: what experiment_config.h or the
build folder hold does not matter to it. Where something fails, `status:` and `error:` take the place of the results;
the exit status is 2 for a refused header or command line, 130 for Ctrl-C, 143 for SIGTERM, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

import lineage
import processes
from command import LARGEST_SEED, Parser, complain, say, whole_number
from experiment_config import read_config, write_header
from failure import Failure, sha256
from folders import data_folder, locked, token_path

HERE = Path(__file__).resolve().parent
CONFIG = Path("ane/experiment_config.h")
CANDIDATE = HERE / "candidate.ckpt"
TOKENS = "tinystories_data00.bin"

BUILD_SECONDS = 120.0
START_SECONDS = 120.0  # that training may take beyond its wall time: compilation for the device, and its own validation
EVALUATE_SECONDS = 1800.0  # the largest models on a slow machine
MOST_WALL_SECONDS = 7 * 24 * 3600.0

PROGRAMS = ("train", "evaluate", "selftest", "bench")
BACKENDS = ("auto", "cpu", "sim", "ane")
SUMMARY = ("val_loss", "train_loss", "steps", "ms_per_step", "wall_time_s", "compile_time_s", "ane_util_pct")
TRAINED = SUMMARY[1:]

_PAIR = re.compile(r"([a-z][a-z0-9_]*): (\S.*)")


class Terminated(Exception):
    """SIGTERM."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; see above."""

    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    open_streams()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        busy = Failure(f"another harness is at work in {HERE}", "wait for it, or copy the folder")
        with locked(HERE, busy) as lock:
            VERBS[options.verb](options, lock)
        return 0
    except Failure as failure:
        return _report("failed", failure.sentence, failure.hint, failure.status)
    except KeyboardInterrupt:
        return _report("interrupted", "interrupted by Ctrl-C", "", 130)
    except Terminated:
        return _report("interrupted", "interrupted by SIGTERM", "", 143)
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        return 1
    except OSError as error:  # a full disk, a file that was taken away: whatever has no sentence of its own
        name = f"{error.filename}: " if error.filename else ""
        return _report("failed", f"{name}{error.strerror or error}", "", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def open_streams() -> None:
    """A standard stream that was closed goes nowhere: it is None in Python, and the next file would get its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _report(status: str, sentence: str, hint: str, code: int) -> int:
    with _or_nowhere(sys.stdout):
        _print_block({"status": status, "error": " ".join(sentence.split())})
    with _or_nowhere(sys.stderr):
        complain("harness_ane.py", sentence, hint)
    return code


@contextlib.contextmanager
def _or_nowhere(stream: TextIO) -> Iterator[None]:
    """What cannot be written does not change the exit status, neither now nor when Python flushes its streams."""
    try:
        yield
    except OSError:
        _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_block(pairs: Mapping[str, str]) -> None:
    print("---")
    for key, value in pairs.items():
        print(f"{key + ':':<17} {value}")
    sys.stdout.flush()


# ----------------------------------------------------------------------------------------------------------------------
# The verbs


def run_all(options: argparse.Namespace, lock: int) -> None:
    results = train(options, lock, show_block=False)
    judged = evaluate(options, lock)
    further = {key: value for key, value in results.items() if key not in SUMMARY}
    summary = {"val_loss": judged["val_loss"], **{key: results[key] for key in TRAINED}}
    _print_block({**summary, "val_tokens": judged.get("val_tokens", "?"), **further})


def run_train(options: argparse.Namespace, lock: int) -> None:
    train(options, lock, show_block=True)


def run_evaluate(options: argparse.Namespace, lock: int) -> None:
    for key, value in evaluate(options, lock).items():
        print(f"{key}: {value}")
    sys.stdout.flush()


def run_keep(options: argparse.Namespace, lock: int) -> None:
    if options.lineage is None:
        raise Failure("keep needs --lineage", "python3 harness_ane.py keep --lineage DIR", 2)
    print(f"kept: {lineage.keep(Path(options.lineage))}")


VERBS = {"all": run_all, "train": run_train, "evaluate": run_evaluate, "keep": run_keep}


def train(options: argparse.Namespace, lock: int, show_block: bool) -> dict[str, str]:
    """Check, build, train: leaves candidate.ckpt, and in the lineage where there is one. Results by key."""
    remove_candidate()  # of an earlier run, first of all: it must never be taken for this one's
    config = read_config(HERE / options.config, options.config)
    data = token_file(options)
    cycle = None
    if options.lineage:
        cycle = lineage.begin(Path(options.lineage), HERE, config.architecture, data, os.environ)
    build_folder = HERE / options.build
    make_folder(build_folder)
    try:
        write_header(config, build_folder)
    except OSError as error:
        raise unusable(build_folder, error) from None
    build(f"{options.build}/train", options.build, lock)

    command = [f"{build_folder}/train", "--data", str(data), "--checkpoint", str(CANDIDATE)]
    command += ["--wall-time", repr(options.wall_time), *forwarded(options, "threads", "backend", "max_steps", "seed")]
    if cycle and cycle.resume:
        say(f"notice: resuming {cycle.resume}")
        command += ["--resume", str(cycle.resume)]
    elif cycle:
        say(f"notice: training from scratch: {cycle.notice}")
    block = Block(show_block)
    try:
        limit = START_SECONDS + 1.1 * options.wall_time
        run_program("the trainer", command, limit, lock, block.take, cycle)
        missing = [key for key in TRAINED if key not in block.pairs]
        if missing or not os.path.lexists(CANDIDATE):
            what = missing[0] if missing else CANDIDATE.name
            raise Failure(f"the trainer ended without {what}", "make clean; python3 harness_ane.py")
        if cycle:
            lineage.save(cycle, CANDIDATE)
    except BaseException:
        remove_candidate()
        raise
    return block.pairs


def evaluate(options: argparse.Namespace, lock: int) -> dict[str, str]:
    """val_loss of candidate.ckpt and what the judge says with it, by a program built anew from the sources."""
    if not os.path.lexists(CANDIDATE):
        raise Failure(f"there is no {CANDIDATE.name} to evaluate", "python3 harness_ane.py train")
    data = token_file(options)
    make_folder(HERE / options.build)
    # Nothing in this folder can be older than this moment.
    with tempfile.TemporaryDirectory(prefix="evaluate-", dir=HERE / options.build) as fresh:
        folder = f"{options.build}/{Path(fresh).name}"
        build(f"{folder}/evaluate", folder, lock)
        command = [f"{HERE / folder}/evaluate", "--checkpoint", str(CANDIDATE), "--data", str(data)]
        command += ["--split", options.split, *forwarded(options, "threads")]
        lines: list[str] = []
        run_program("the evaluation", command, EVALUATE_SECONDS, lock, lines.append)
    pairs = dict(match.groups() for match in map(_PAIR.fullmatch, lines) if match)
    try:
        good = math.isfinite(float(pairs["val_loss"]))
    except (KeyError, ValueError):
        good = False
    if not good:
        raise Failure("the evaluation ended without a val_loss")
    return pairs


class Block:
    """Prints the trainer's lines as they come, and reads the `key: value` lines after its `---`."""

    def __init__(self, show: bool) -> None:
        self.show, self.within = show, False
        self.pairs: dict[str, str] = {}

    def take(self, line: str) -> None:
        self.within |= line == "---"
        pair = _PAIR.fullmatch(line)
        if self.within and pair:
            self.pairs[pair[1]] = pair[2]
        if (self.show or not self.within) and not line.startswith("val_loss"):
            print(line, flush=True)


# ----------------------------------------------------------------------------------------------------------------------
# Files and programs


def remove_candidate() -> None:
    try:
        for path in (CANDIDATE, CANDIDATE.with_name(CANDIDATE.name + ".part")):  # of a killed trainer: half a gigabyte
            path.unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"{CANDIDATE} is there and cannot be removed: {error.strerror}") from None


def make_folder(folder: Path) -> None:
    """The build folder, without what killed evaluations have left there. Failure for one of sources."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.suffix in (".c", ".h", ".py") and path.name != "config.h" for path in folder.iterdir()):
            raise Failure(f"the build folder {folder} holds sources", "give a folder of its own: --build build", 2)
        for path in folder.glob("evaluate-*"):
            shutil.rmtree(path)
    except OSError as error:
        raise unusable(folder, error) from None


def unusable(folder: Path, error: OSError) -> Failure:
    what = f"{Path(error.filename).name}: {error.strerror}" if error.filename else error.strerror
    return Failure(
        f"the build folder {folder} cannot be used: {what}", f"make room, or rm -r {shlex.quote(str(folder))}"
    )


def token_file(options: argparse.Namespace) -> Path:
    """--data, else the one in the cache folder."""
    path = token_path(options.data, TOKENS)
    if not path.is_file():
        raise Failure(f"there is no token file {path}", preparing(path))
    return path


def preparing(path: Path) -> str:
    """The command that makes a token file."""
    kind = "tinystories" if path.name == TOKENS else "synthetic"
    standard = path.parent == data_folder().expanduser().absolute()
    out = [] if standard and path.name in (TOKENS, "synthetic.bin") else ["--out", str(path)]
    return shlex.join(["python3", "prepare.py", kind, *out])


def forwarded(options: argparse.Namespace, *names: str) -> list[str]:
    """Those options of the programs that were given here."""
    given = [(f"--{name.replace('_', '-')}", getattr(options, name)) for name in names]
    return [word for name, value in given if value is not None for word in (name, str(value))]


def compiler_name() -> str:
    """The first word of CC, which may hold flags as well."""
    text = os.environ.get("CC") or "cc"
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark without its other one
        words = []
    if not words:
        raise Failure(f"CC is {text!r}, which names no compiler", "unset CC")
    return words[0]


def remove_stale(folder: Path, compiler: str) -> None:
    """Removes what was built there of other sources or flags, by another compiler or on another machine: make sees only
    times, and a copied folder may hold anything."""
    digest = hashlib.sha256()
    flags = [os.environ.get(name) for name in ("CC", "CFLAGS")]
    digest.update(repr((flags, compiler, platform.machine(), platform.node())).encode())
    sources = [path for path in sorted((HERE / "ane").glob("*.[ch]")) if not path.name.startswith("experiment_config")]
    for path in [HERE / "Makefile", *sources]:
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    noted, now = folder / "digest", digest.hexdigest()
    try:
        if noted.is_file() and noted.read_bytes() == now.encode():
            return
        for path in [*folder.glob("*.o"), *(folder / name for name in PROGRAMS)]:
            path.unlink(missing_ok=True)
        noted.write_text(now)
    except OSError as error:
        raise unusable(folder, error) from None


def build(target: str, folder: str, lock: int) -> None:
    """make TARGET with BUILD=FOLDER, both relative to this folder."""
    make, compiler = shutil.which("make"), compiler_name()
    found = shutil.which(compiler)
    if make is None or found is None:
        what = "make" if make is None else f"C compiler {compiler}"
        hint = "xcode-select --install" if sys.platform == "darwin" else "apt install build-essential"
        raise Failure(f"there is no {what} on this machine", hint)
    remove_stale(HERE / folder, found)
    # MAKEFLAGS and its like would change what this make does, when the harness was itself started by one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}
    jobs = f"-j{os.cpu_count() or 1}"
    command = [os.path.abspath(make), "--no-print-directory", jobs, f"BUILD={folder}", target]
    done = processes.run(command, HERE, environment, BUILD_SECONDS, inherited=[lock])
    if done.status is None:
        raise Failure(f"{target} was not built within {BUILD_SECONDS:g} seconds", "close what else runs here")
    if done.status != 0:
        for line in done.last_errors[-20:]:
            say(line)
        raise Failure(f"{target} could not be built", "the compiler's words are above; make clean starts anew")
    if not (HERE / target).is_file():
        raise Failure(f"make ended well and left no {target}", f"is {compiler} a C compiler?")


def run_program(
    what: str,
    command: list[str],
    limit_seconds: float,
    lock: int,
    take: Callable[[str], None],
    cycle: lineage.Cycle | None = None,
) -> None:
    """Runs one of our programs; its notices are shown as they come. Failure with its own sentence where it fails."""
    errors: list[str] = []

    def take_error(line: str) -> None:
        if line.startswith(("notice:", "warning:")):
            say(line)
        elif line.strip():
            errors.append(line)

    try:
        done = processes.run(command, HERE, os.environ, limit_seconds, take, take_error, [lock])
    except OSError as error:
        raise Failure(f"{command[0]} cannot be run: {error.strerror}", "make clean; python3 harness_ane.py") from None
    if done.status == 0:
        for line in errors:
            say(line)
        return
    if done.status is None:
        raise Failure(f"{what} did not end within {limit_seconds:g} seconds and was killed")
    hints = [line.removeprefix("hint: ") for line in errors if line.startswith("hint: ")]
    sentences = [line for line in errors if not line.startswith("hint: ")]
    for line in sentences[:-1]:
        say(line)
    hint = hints[-1] if hints else ""
    data = command[command.index("--data") + 1]
    if done.status < 0:
        if done.status == -signal.SIGKILL:  # what the system does where memory is short
            hint = hint or "perhaps for want of memory: lower DIM, HIDDEN or NLAYERS"
        raise Failure(f"{what} was ended by {signal.Signals(-done.status).name}", hint)
    sentence = sentences[-1] if sentences else f"{what} ended with status {done.status}"
    if cycle and cycle.resume and str(cycle.resume) in sentence:
        hint = cycle.without_resume
    elif data in sentence and not hint:
        hint = f"rm {shlex.quote(data)}; {preparing(Path(data))}"
    raise Failure(sentence, hint)


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options, with what the environment says where they are not given. Failure with status 2."""
    parser = Parser("harness_ane.py", __doc__)
    add = parser.add_argument
    add("verb", nargs="?", choices=VERBS, default="all", help="default: %(default)s")
    add("--wall-time", type=wall_time, metavar="S", help="seconds; else ANE_WALL_TIME, ARK_BUDGET_SECONDS, or 300")
    add("--data", metavar="FILE", help=f"token file; default: $ARK_CACHE/ane/{TOKENS}")
    add("--backend", choices=BACKENDS, help="auto: ane on macOS, else cpu")
    add("--lineage", metavar="DIR", help="go on from the checkpoint that was kept there; without it, from scratch")
    add("--threads", type=whole_number(1, 256), metavar="N", help="default: one per processor")
    add("--build", type=inside, default="build", metavar="DIR", help="in this folder; default: %(default)s")
    add("--seed", type=whole_number(0, LARGEST_SEED), metavar="N", help="else ARK_SEED")
    add("--max-steps", type=whole_number(1, LARGEST_SEED), metavar="N", help="end after N windows")
    add("--split", choices=("validation", "holdout"), default="validation", help="to evaluate; default: %(default)s")
    add("--config", type=inside, default=str(CONFIG), metavar="FILE", help="in this folder; default: %(default)s")
    options = parser.parse_args(arguments)
    if options.wall_time is None:
        options.wall_time = from_environment(("ANE_WALL_TIME", "ARK_BUDGET_SECONDS"), wall_time, 300.0)
    if options.seed is None:
        options.seed = from_environment(("ARK_SEED",), whole_number(0, LARGEST_SEED), None)
    if options.lineage is not None:
        check_lineage(options.lineage)
    return options


def check_lineage(folder: str) -> None:
    """Failure for an empty name, and for the folder of a harness, whose lock and candidate.ckpt are that one's."""
    if not folder:
        raise Failure("--lineage is empty: a variable that is not set, perhaps", "--lineage runs", 2)
    if os.path.lexists(Path(folder, Path(__file__).name)):
        raise Failure(f"--lineage needs a folder of its own, and {folder} holds a harness", "--lineage runs", 2)


def from_environment(names: tuple[str, ...], parse: Callable[[str], Any], default: Any) -> Any:
    for name in names:
        if os.environ.get(name):
            try:
                return parse(os.environ[name])
            except argparse.ArgumentTypeError as error:
                raise Failure(f"{name}: {error}", f"unset {name}", 2) from None
    return default


def wall_time(text: str) -> float:
    """Seconds, more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_WALL_SECONDS:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds above 0, and a week at most")
    return value


def inside(text: str) -> str:
    """For make, which cannot have spaces or signs of its own in names."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no name in this folder, of letters, digits and -_+.")
    return text


if __name__ == "__main__":
    sys.exit(main())
