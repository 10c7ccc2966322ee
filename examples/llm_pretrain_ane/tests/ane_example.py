"""A copy of the example in which the C programs are scripts, and what its tests ask of the harness."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ane_modules import EXAMPLE, load
from ane_stubs import stub

config = load("experiment_config")


KEYS = ["val_loss", "train_loss", "steps", "ms_per_step", "wall_time_s", "compile_time_s", "ane_util_pct"]


# `make build/train` copies the script, so that a build is short and what it made can fail in any way.
MAKEFILE = """
BUILD ?= build
$(BUILD)/train: $(BUILD)/config.h train.sh
$(BUILD)/train $(BUILD)/evaluate: $(BUILD)/%: %.sh
	echo $* >> built
	@mkdir -p $(BUILD)
	cp $*.sh $@
"""


TRAIN = """#!/bin/sh
echo "$@" >> trained
while [ $# -gt 0 ]; do [ "$1" = --checkpoint ] && out="$2"; [ "$1" = --resume ] && from="$2"; shift; done
echo 'notice: all kernels run on the CPU' >&2
echo 'step 10  loss 3.5'
DOES
cp made.ckpt "$out"
printf -- '---\\ntrainer_val_loss: 2.5\\ntrain_loss: 2.25\\nsteps: 20\\nms_per_step: 1.5\\nwall_time_s: 1.0\\n'
printf 'compile_time_s: 0.1\\nane_util_pct: 0.00\\nbackend: cpu\\n'
"""


EVALUATE = """#!/bin/sh
echo "$@" >> evaluated
DOES
printf 'val_loss: 2.431999\\nval_tokens: 25600\\n'
"""


class Example:
    """A copy of the example in which the C programs are scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = sys.executable
        (folder / "ane").mkdir(parents=True)
        for path in EXAMPLE.glob("*.py"):
            shutil.copy(path, folder)
        shutil.copy(EXAMPLE / "ane" / "experiment_config.h", folder / "ane")
        (folder / "Makefile").write_text(MAKEFILE)
        self.trainer()
        self.judge()
        self.checkpoint = folder / "made.ckpt"
        self.made("made")
        self.data = folder / "tokens.bin"
        self.data.write_bytes(b"\1\0" * 100)
        self.header = folder / "ane" / "experiment_config.h"
        self.candidate = folder / "candidate.ckpt"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("ARK_", "ANE_"))},
            "PYTHONDONTWRITEBYTECODE": "1",
            "ARK_CACHE": str(folder / "cache"),
        }

    def trainer(self, does: str = "") -> None:
        self._script("train.sh", TRAIN, does)

    def judge(self, does: str = "") -> None:
        self._script("evaluate.sh", EVALUATE, does)

    def _script(self, name: str, text: str, does: str) -> None:
        (self.folder / name).write_text(text.replace("DOES", does))
        (self.folder / name).chmod(0o755)

    def made(self, content: str, architecture: str | None = None) -> None:
        """What the trainer will leave."""
        architecture = architecture or config.read_config(self.folder / "ane" / "experiment_config.h").architecture
        self.checkpoint.write_bytes(stub(content, architecture))

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.python, "harness_ane.py", *words],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, "--data", str(self.data), **environment)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    def log(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


def failed(result: tuple[int, str, str], status: int, sentence: str, hint: str | None = None) -> None:
    """One sentence, in the block and on standard error, and no metric."""
    code, output, errors = result
    assert code == status, errors
    assert not re.search("^val_loss", output, re.MULTILINE) and "Traceback" not in errors
    block = output[output.index("---\n") :].splitlines()
    assert [line.split()[0] for line in block] == ["---", "status:", "error:"]
    lines = [line for line in errors.splitlines() if not line.startswith("notice:")]
    assert re.search(sentence, lines[-2 if lines[-1].startswith("hint: ") else -1])
    assert re.search(sentence, block[-1])
    if hint is not None:
        assert re.search(hint, lines[-1])


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/where/config.h")


def in_process(example: Example, monkeypatch):
    """The harness in this process, so that parts of it can be exchanged."""
    harness = load("harness_ane")
    for name, value in {"HERE": example.folder, "CANDIDATE": example.candidate}.items():
        monkeypatch.setattr(harness, name, value)
    monkeypatch.chdir(example.folder)
    return harness


def here(harness, example: Example, capfd) -> tuple[int, str, str]:
    code = harness.main(["--wall-time", "0.1", "--data", str(example.data)])
    return code, *capfd.readouterr()


def waiting(example: Example, *words: str) -> tuple[subprocess.Popen, int]:
    """A harness whose trainer is at work, and the trainer's process."""
    example.trainer("echo $$ > pid; exec sleep 100")
    process = example.start("train", "--data", str(example.data), *words)
    ends = time.monotonic() + 60
    while not example.log("pid").strip():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    return process, int(example.log("pid"))


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if Path("/proc").exists() else ""
            )
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
