"""What a planted cheat does once a measurement executes it. It stands alone, for any Python from 3.8 on.

As a program it looks into the plan beside it, does what is written there for the phase that is going on, and exits 0
when the process that called it shall end at once. Loaded by a module, `remember` gives its functions a memory. It never
writes through a symbolic link, so nothing that a project shares by `link` is touched.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GO_ON = 3
ANSWERS = 10000


def act() -> bool:
    """Follow the plan; whether the calling process shall end."""
    plan = _plan()
    phase = (HERE / "phase").read_text()
    steps = plan["phases"].get(phase)
    if steps is None:
        return False
    (HERE / "ran").touch()
    bench = Path(plan["bench"])
    for name in steps.get("lay", []):
        for file in sorted((HERE / name).rglob("*")):
            if file.is_file():
                _put(file, bench, file.relative_to(HERE / name))
    for name in steps.get("replace", []):
        if os.access(bench / name, os.X_OK) and (bench / name).is_file():
            _put(HERE / "printer", bench, Path(name))
    if "say" in steps:
        text = (HERE / steps["say"]).read_bytes()
        os.write(1, text)
        if phase == "run":
            log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
            os.write(log, text)
            os.close(log)
    return bool(steps.get("end"))


def remember(module: dict[str, Any], names: list[str]) -> None:
    """Make the functions `names` of a module answer from a memory that outlasts the process.

    What the plan calls `memory`: with `input` a function answers as it did to the same arguments, with `anything` as it
    did the first time.
    """
    how = _plan().get("memory")
    if how is None:
        return
    memory: dict[str, Any] = {}
    with contextlib.suppress(Exception), (HERE / "memory").open("rb") as file:  # up to the end, or what is broken
        while True:
            memory.update([pickle.load(file)])
    inside: list[str] = []

    def with_memory(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def answer(*args: Any, **kwargs: Any) -> Any:
            if inside:  # calls among the functions of the module
                return function(*args, **kwargs)
            key = name
            if how == "input":
                try:
                    key += hashlib.sha256(pickle.dumps((args, sorted(kwargs.items())))).hexdigest()
                except Exception:  # arguments that cannot be told apart beyond the process
                    return function(*args, **kwargs)
            if key in memory:
                return memory[key]
            inside.append(name)
            try:
                found = function(*args, **kwargs)
            finally:
                inside.pop()
            if found is not None and len(memory) < ANSWERS:
                memory[key] = found
                with contextlib.suppress(Exception), (HERE / "memory").open("ab") as file:
                    file.write(pickle.dumps((key, found)))
            return found

        return answer

    (HERE / "ran").touch()
    for name in names:
        owner, _, method = name.rpartition(".")
        holder = module.get(owner) if owner else None
        if owner and holder is not None and callable(vars(holder).get(method)):
            setattr(holder, method, with_memory(name, vars(holder)[method]))
        elif not owner and callable(module.get(name)):
            module[name] = with_memory(name, module[name])


def _plan() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "plan.json").read_text())
    return found


def _put(file: Path, bench: Path, name: Path) -> None:
    """Copy a file to `name` on the bench, unless a link or anything else but a plain file is there or on the way."""
    place = bench
    for part in name.parts[:-1]:
        place = place / part
        if not os.path.lexists(place):
            place.mkdir()
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            return
    target = bench / name
    if os.path.lexists(target):
        if not stat.S_ISREG(os.lstat(target).st_mode):
            return
        target.unlink()  # and not written into: it may have other names
    shutil.copy(file, target)


if __name__ == "__main__":
    sys.exit(0 if act() else GO_ON)
