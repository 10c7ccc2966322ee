"""Which checkpoint a cycle goes on from, and where its own is left: a discarded one leaves no trace for the next.

By hand: DIR/kept.ckpt is resumed, the result is DIR/candidate.ckpt, and `harness_ane.py keep` makes it the kept one.
Under ark nobody needs to say what was kept. Each result is DIR/TAG/RUN/TREE-PARENT.ckpt by the names of git's trees,
and a run resumes what its parent left: only what was kept ever becomes a parent. ark refuses a tree that was measured
before in its run, so a tree names one attempt there. ARK_ATTEMPT 0 begins a run: it trains from scratch, and what a
former run left in this folder goes. A baseline that is measured again later, whose tree is its parent's, trains from
scratch and deletes nothing. Measurements of the same commit again resume the same parent and leave the first result.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import shutil
import stat
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from failure import Failure, sha256
from folders import locked

NEWEST_LEFT = 4  # checkpoints of other attempts that stay; a full-size one has half a GB
PATIENCE_SECONDS = 60.0  # with another cycle that leaves its result there, which takes seconds
NEW_RUN = "begin a new run under another --tag"
CANDIDATE, KEPT = "candidate.ckpt", "kept.ckpt"
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)

# Of checkpoint.h: magic, version, tensors, architecture, then more, and the checksum of all before it.
_HEADER_BYTES, _MAGIC, _ARCHITECTURE = 208, b"ARKANE01", slice(16, 32)

_ATTEMPT = re.compile(r"[0-9]{1,9}")
_TAG = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TREE = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ckpt")


@dataclass(frozen=True)
class Cycle:
    """Where a cycle begins (None: from scratch, for the reason in `notice`) and where its result goes."""

    resume: Path | None
    notice: str
    folder: Path
    result: str
    replaces: bool  # by hand the result of the run before; under ark a first result stays
    prunes: bool  # a baseline does not know what the others need

    @property
    def without_resume(self) -> str:
        """A hint for a checkpoint that cannot be gone on from."""
        if self.replaces:
            return f"rm {shlex.quote(str(self.resume))}; training then begins from scratch"
        return NEW_RUN


def begin(root: Path, home: Path, architecture: str, data: Path, environment: Mapping[str, str]) -> Cycle:
    """What the next cycle of the harness in the folder `home` is. Makes the folders. Failure for what is not as the
    lineage left it."""
    try:
        if os.path.lexists(root) and not root.is_dir():
            raise Failure(f"--lineage {root} is no folder", "give another")
        root.mkdir(parents=True, exist_ok=True)
        if "ARK_TREE" in environment:
            return _under_ark(root, home, architecture, data, environment)
        return _by_hand(root, architecture)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}", "--lineage needs a folder that can be written") from None


def save(cycle: Cycle, checkpoint: Path) -> None:
    """Leaves the checkpoint in the lineage, as a link where the file system can, and deletes old ones."""
    target = cycle.folder / cycle.result
    try:
        with _alone(cycle.folder):
            if cycle.replaces:
                target.unlink(missing_ok=True)
            if not os.path.lexists(target) and not (cycle.prunes and _is_taken_back(target)):
                _link_or_copy(checkpoint, target)
            if cycle.prunes:
                _prune(cycle.folder, cycle.result)
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}", "make room, or give another --lineage") from None


def keep(root: Path) -> Path:
    """By hand: from now on the candidate is what cycles begin with."""
    candidate, kept = root / CANDIDATE, root / KEPT
    if _plain(candidate) is None:
        raise Failure(f"there is no {candidate} to keep", "python3 harness_ane.py --lineage DIR makes one")
    try:
        whole = _is_whole(candidate)
    except OSError as error:
        raise Failure(f"{candidate} cannot be read: {error.strerror}") from None
    if not whole:
        raise Failure(f"{candidate} is no whole checkpoint", f"rm {candidate}")
    try:
        candidate.replace(kept)
    except OSError as error:
        raise Failure(f"{kept} cannot be written: {error.strerror}") from None
    return kept


def _is_whole(checkpoint: Path) -> bool:
    """Whether its header is sound, and the CRC-32 at its end is that of all before it."""
    crc, left = 0, checkpoint.stat().st_size - 4
    if left < _HEADER_BYTES or architecture_of(checkpoint) is None:  # the header alone ends with its own checksum
        return False
    with open(checkpoint, "rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        return file.read() == crc.to_bytes(4, "little")


def architecture_of(checkpoint: Path) -> str | None:
    """The digest in its header; None where the header is damaged, which the trainer will say better."""
    with open(checkpoint, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    if zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
        return None
    return header[_ARCHITECTURE].decode("ascii", "replace")


def _by_hand(root: Path, architecture: str) -> Cycle:
    candidate = root / CANDIDATE
    if candidate.is_dir() and not candidate.is_symlink():
        raise Failure(f"{candidate} is a folder", f"rm -r {shlex.quote(str(candidate))}")
    candidate.unlink(missing_ok=True)  # of the run before; if this one fails there is nothing to keep
    kept = root / KEPT
    if not os.path.lexists(kept):
        return Cycle(None, f"there is no {kept} yet", root, CANDIDATE, True, False)
    resume, notice = _resumable(kept, architecture)
    return Cycle(resume, notice, root, CANDIDATE, True, False)


def _under_ark(root: Path, home: Path, architecture: str, data: Path, environment: Mapping[str, str]) -> Cycle:
    names = ("ARK_TAG", "ARK_ATTEMPT", "ARK_TREE", "ARK_PARENT_TREE")
    tag, attempt, tree, parent = (environment.get(name, "") for name in names)
    trees = _TREE.fullmatch(tree) and _TREE.fullmatch(parent)
    if not (_TAG.fullmatch(tag) and _ATTEMPT.fullmatch(attempt) and trees) or tag in (".", ".."):
        raise Failure(f"ARK_TREE is set, but {', '.join(names)} are not what ark sets", "by hand: unset ARK_TREE")
    folder = root / tag / _run_name(home, data)
    for each in (folder.parent, folder):
        each.mkdir(exist_ok=True)
        if not stat.S_ISDIR(each.lstat().st_mode):
            raise Failure(f"{each} is a link and no folder", f"rm {each}")
    result = f"{tree[:16]}-{parent[:16]}.ckpt"
    if int(attempt) == 0:
        with _alone(folder):
            for path, *_ in _checkpoints(folder):
                path.unlink()
    if int(attempt) == 0 or tree == parent:
        return Cycle(None, "this is a baseline", folder, result, False, False)
    left = [path for path, own, _ in _checkpoints(folder) if own == parent[:16]]
    if not left:
        raise Failure(f"the checkpoint of its parent is gone: {folder}", NEW_RUN)
    # Of two, the newer: a head that was measured anew as a baseline, and its value is that one's.
    resume, notice = _resumable(left[0], architecture)
    return Cycle(resume, notice, folder, result, False, True)


def _alone(folder: Path) -> AbstractContextManager[int]:
    busy = Failure(f"another harness is at work in {folder}", "wait for it, or give another --lineage")
    return locked(folder, busy, PATIENCE_SECONDS)


def _resumable(checkpoint: Path, architecture: str) -> tuple[Path | None, str]:
    if _plain(checkpoint) is None:
        raise Failure(f"{checkpoint} is no plain file", f"rm -r {shlex.quote(str(checkpoint))}")
    if architecture_of(checkpoint) not in (None, architecture):
        return None, f"{checkpoint} has another architecture"
    return checkpoint, ""


def _run_name(home: Path, data: Path) -> str:
    """12 hex digits. On ark's bench the harness's path is that of one run, so that runs of other projects or clones
    with the same tag are told apart; and a checkpoint belongs to the tokens that it was trained with."""
    return hashlib.sha256(repr((str(home), sha256(data))).encode()).hexdigest()[:12]


def _plain(path: Path) -> os.stat_result | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _checkpoints(folder: Path) -> list[tuple[Path, str, str]]:
    """(path, tree, parent) of ours, the newest first. Links and other names are nobody's that we know."""
    found = []
    for path in folder.iterdir():
        name, state = _NAME.fullmatch(path.name), _plain(path)
        if name and state:
            found.append((state.st_mtime_ns, path.name, (path, name[1], name[2])))
    return [entry for *_, entry in sorted(found, reverse=True)]


def _is_taken_back(target: Path) -> bool:
    """Whether the tree is its parent's parent: a head without its last change, as `ark verify --ablate` measures it.
    What the tree left as an attempt stays the only one."""
    tree, parent = target.stem.split("-")
    return any((own, before) == (parent, tree) for _, own, before in _checkpoints(target.parent))


def _prune(folder: Path, result: str) -> None:
    """Deletes all but this tree's, its parent's, its grandparent's and the newest of the rest.

    The parent is the best so far, which every attempt begins with; when the best is measured again it begins with the
    grandparent.
    """
    tree, parent = result.removesuffix(".ckpt").split("-")
    entries = _checkpoints(folder)
    grandparents = {grandparent for _, own, grandparent in entries if own == parent}
    others = [path for path, own, _ in entries if own not in {tree, parent, *grandparents}]
    for path in others[NEWEST_LEFT:]:
        path.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        try:
            with open(source, "rb") as read, open(part, "xb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
                written.flush()
                os.fsync(written.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
