"""What the benchmarks of both language-model trainers share: data, copies with other settings, what a run printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def run(order: list[str], folder: Path, **environment: str) -> str:
    """What the command prints; its last words when it fails."""
    done = subprocess.run(order, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(order)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def numbers(text: str) -> dict[str, str]:
    """The lines `key: value` of a final block."""
    return dict(re.findall(r"^(\w+):\s+(\S+)", text, re.M))


def made(example: Path, cache: Path, name: str, *arguments: str) -> None:
    """A data set of synthetic stories in `cache`."""
    order = [sys.executable, "prepare.py", "synthetic", "--name", name, "--cache", str(cache), *arguments]
    run(order, example)


def gathered(folder: Path, megabytes: float) -> Path:
    """Sources of installed Python packages as .txt files: text that is there on every machine, and is no toy."""
    folder.mkdir()
    left = megabytes * 1e6
    for number, path in enumerate(sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))):
        text = path.read_text(encoding="utf-8", errors="replace")
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        left -= len(text)
        if left < 0:
            break
    return folder


def copied(example: Path, folder: Path) -> Path:
    shutil.copytree(
        example, folder, ignore=shutil.ignore_patterns("tests", "__pycache__", "*.safetensors", "*.graph", "run.log")
    )
    return folder


def with_settings(example: Path, folder: Path, settings: dict[str, str]) -> Path:
    """A copy of the example whose train.py has these constants."""
    target = copied(example, folder) / "train.py"
    text = target.read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", text, flags=re.M)
        assert count == 1, f"{name} is not a constant of train.py"
    target.write_text(text)
    return folder
