"""A desk of the tiny project, with the real `ark` on it: real processes, as an agent's tool calls are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.serve.client import dismiss
from tests.engine.conftest import Tiny, _home, _surroundings, _template, tiny  # noqa: F401 - fixtures

PATIENCE = 60.0
"""For what takes a fraction of a second, on a machine that does much else."""


class OnDesk:
    """Somebody who works on a desk."""

    def __init__(self, project: Tiny, tag: str, folder: Path) -> None:
        self.tiny = project
        self.tag = tag
        self.folder = folder
        self.cache = next(path.parent for path in (folder, *folder.parents) if path.name == "desk")

    def write(self, text: str, path: str = "train.sh") -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def answer(self, value: object) -> None:
        """Change the experiment so that it scores this."""
        self.write(f"echo {value} > answer.txt\n")

    def ark(self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Any:
        done = self.tiny.ark(*args, cwd=cwd or self.folder, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def try_(self, *args: str, code: int = 0) -> dict[str, Any]:
        done = self.ark("try", "--json", *args)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def wait(self, *args: str, code: int = 0) -> dict[str, Any]:
        done = self.ark("wait", "--json", *args)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """A call that goes on while the test does something else."""
        return subprocess.Popen(
            [*self.tiny.command, *args],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def hold(self) -> Path:
        """Change the experiment so that it lasts until the file that is returned exists."""
        gate = self.tiny.tmp / f"gate-{len(list(self.tiny.tmp.glob('gate-*')))}"
        self.write(f"touch {gate}-begun; until [ -e {gate} ]; do sleep 0.02; done; echo 20 > answer.txt\n")
        return gate

    def host(self) -> int:
        """The process that holds the run."""
        return int(json.loads((self.tiny.root / ".git/ark" / f"{self.tag}.lock").read_text())["pid"])

    def log(self) -> list[dict[str, Any]]:
        return self.tiny.log(self.tag)


def until(condition: Callable[[], object], what: str = "it") -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"{what} has not happened"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def lay(tiny: Tiny) -> Iterator[Callable[..., OnDesk]]:  # noqa: F811 - pytest's way
    """Lays a desk, as `ark desk` does."""
    laid: list[OnDesk] = []

    def call(tag: str = "t", *args: str) -> OnDesk:
        done = tiny.ark_here("desk", "--tag", tag, *args)
        assert done.returncode == 0, done.stderr
        laid.append(OnDesk(tiny, tag, Path(done.stdout.strip())))
        return laid[-1]

    yield call
    for desk in laid:
        dismiss(desk.cache)


@pytest.fixture
def desk(lay: Callable[..., OnDesk]) -> OnDesk:
    return lay()


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """A host in this process takes SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)
