"""The user's repository, as far as `ark` needs it: objects, trees, commits and refs. GitPython does the work.

Promises: nothing here touches the user's checkout, index, stash or HEAD; git is started only with the user's own
repository as its git folder, never inside a folder that an agent can write; the user's hooks, fsmonitor and
environment (`GIT_DIR` and the like) play no part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a missing git is our sentence to say
import git as git
from git.objects.fun import tree_entries_from_data, tree_to_stream
from gitdb import IStream, LooseObjectDB
from gitdb.exc import BadName, BadObject

from autoresearch_kit.core.errors import ArkError

ROOT = "refs/ark/"
"""Below it lie the attempts of all runs."""
ZERO = "0" * 40
GITLINK = 0o160000
SYMLINK = 0o120000
FOLDER = 0o040000
DISK_HINT = "free some space on the disk; `ark clean` removes desks, benches and caches"
WRITE_HINT = "make the repository writable for this user, or clone it to a place that is"
# Nothing that the user configured may run here, nor may a look at the checkout refresh the user's index. On a busy
# machine git's own patience with another's lock, 0.1 s, is too short.
_SAFE = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "gc.auto=0", "core.filesRefLockTimeout=5000"]
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    # A replaced object would be measured under the name of another.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_COMMITTER_NAME": "ark",
    "GIT_COMMITTER_EMAIL": "ark@localhost",
}
_LITERAL = {"GIT_LITERAL_PATHSPECS": "1"}
# Where git and the user's settings are, and how it talks to others; all other variables say which repository.
_KEPT = ("GIT_EXEC_PATH", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_ASKPASS")
_KEPT_PREFIXES = ("GIT_PYTHON_", "GIT_SSH", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_")
_MANY_LOOSE = 3000
"""So many loose objects are worth packing."""
_LOCK_SECONDS = 1.0
"""No living git holds the lock of a ref for so long."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree."""

    mode: int
    """As git knows it: 0o100644, 0o100755, 0o120000 (symlink) or 0o160000 (submodule)."""
    oid: str
    """Hash of the blob."""


class RefCommit(NamedTuple):  # ten thousand of them are read in one go
    """A ref and the commit that it points to."""

    name: str
    """Full name of the ref."""
    commit: str
    """Full hash."""
    parent: str
    """Hash of its first parent, empty without one."""
    tree: str
    """Hash of its tree."""
    message: str
    """The whole message; empty when the ref points to something else."""
    date: int
    """When it was committed, in seconds since 1970."""


class RefMoved(ArkError):
    """A ref did not have the value that was expected; nothing was changed."""


class Repository:
    """A git repository with at least one commit."""

    def __init__(self, folder: Path) -> None:
        """Open the repository around `folder`; ArkError when there is none that can be used."""
        _forget_git_environment()
        try:
            self._repo = git.Repo(folder, search_parent_directories=True, expand_vars=False)
        except git.NoSuchPathError:
            raise ArkError(f"{folder} does not exist") from None
        except (git.InvalidGitRepositoryError, ValueError):
            raise ArkError(f"{folder} is not in a git repository", _start_hint(folder)) from None
        if self._repo.bare or self._repo.working_tree_dir is None:
            raise ArkError(f"{self._repo.git_dir} is a bare repository", "clone it and run `ark` in the clone")
        self.root = Path(self._repo.working_tree_dir).resolve()
        places = {"GIT_DIR": str(Path(self._repo.git_dir).resolve()), "GIT_WORK_TREE": str(self.root)}
        self._repo.git.update_environment(**_ENVIRONMENT, **places)
        self.common = Path(self._repo.common_dir).resolve()
        # Not the repository's own `odb`: that pipes each object to a git, which takes our death for the object's end.
        self._loose = LooseObjectDB(str(self.objects))
        self._check_format()

    def _check_format(self) -> None:
        with self._repo.config_reader("repository") as config:
            if str(config.get_value("extensions", "objectformat", "sha1")).lower() != "sha1":
                raise ArkError("the repository uses SHA-256 objects, which `ark` cannot read", "use a SHA-1 repository")
            if str(config.get_value("extensions", "refstorage", "files")).lower() != "files":
                raise ArkError(
                    "the repository keeps its refs as a reftable, which `ark` cannot read",
                    "convert it: git refs migrate --ref-format=files",
                )

    def close(self) -> None:
        """End the helper processes of git."""
        self._repo.close()
        self._repo.git.clear_cache()

    # Reading

    @property
    def objects(self) -> Path:
        """The folder of the object database."""
        return self.common / "objects"

    def head(self) -> str:
        """Full hash of the commit that is checked out; ArkError when there is no commit yet."""
        found = self.commit_of("HEAD")
        if found is None:
            branch = "" if self._repo.head.is_detached else f" on branch {self._repo.head.ref.name}"
            raise ArkError(f"{self.root} has no commit yet{branch}", "commit your files first: git add . && git commit")
        return found

    def commit_of(self, name: str) -> str | None:
        """Full hash of the commit that `name` stands for, or None."""
        found = self.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", ok=(0, 1, 128))
        return found.strip() or None

    def branch(self) -> str:
        """Name of the branch that is checked out, empty when HEAD is detached."""
        return "" if self._repo.head.is_detached else self._repo.head.ref.name

    def tree_of(self, commit: str) -> str:
        """Full hash of the commit's tree."""
        return self._repo.commit(commit).tree.hexsha

    def parent_tree(self, commit: str) -> str:
        """Full hash of the tree of the commit's first parent; of its own tree where it has none."""
        found = self._repo.commit(commit)
        return (found.parents[0] if found.parents else found).tree.hexsha

    def files(self, commit: str) -> dict[str, Entry]:
        """Every file below the tree of `commit` by its path from the root of the repository."""
        listing = self.run("ls-tree", "-r", "-z", "--full-tree", commit)
        entries = {}
        for line in listing.split("\0"):
            if line:
                head, path = line.split("\t", 1)
                mode, _, oid = head.split()
                entries[path] = Entry(int(mode, 8), oid)
        return entries

    def sizes(self, commit: str) -> dict[str, int]:
        """Size in bytes of every blob below the tree of `commit`, by path."""
        listing = self.run("ls-tree", "-r", "-z", "-l", "--full-tree", commit)
        rows = (line.split("\t", 1) for line in listing.split("\0") if line)
        return {path: int(head.split()[3]) for head, path in rows if head.split()[3].isdigit()}

    def blob(self, oid: str, limit: int | None = None) -> bytes:
        """Content of a blob; ArkError for one of more than `limit` bytes, of which none is read."""
        try:
            if limit is not None and (size := self._repo.odb.info(bytes.fromhex(oid)).size) > limit:
                raise ArkError(f"object {short(oid)} is too large to be read: {size} bytes")
            return bytes(self._repo.odb.stream(bytes.fromhex(oid)).read())
        except (BadObject, BadName, ValueError):
            raise _missing(oid) from None

    def file_at(self, commit: str, path: str, limit: int | None = None) -> bytes | None:
        """Content of the file `path` (from the root) in `commit`, or None; ArkError for more than `limit` bytes."""
        try:
            found = self._repo.commit(commit).tree / path
        except (KeyError, ValueError, BadName, BadObject):
            return None
        return self.blob(found.hexsha, limit) if found.type == "blob" else None

    def refs(self, prefix: str | Sequence[str], *fields: str) -> list[list[str]]:
        """The given `for-each-ref` fields of every ref at or below `prefix`, in order of their names; one process.

        The first field must not begin with a newline.
        """
        prefixes = [prefix] if isinstance(prefix, str) else prefix
        # Cut by count: a field may be empty, such as the parent of somebody's first commit.
        pattern = "".join(f"%({field})%00" for field in fields)
        cells = self.run("for-each-ref", f"--format={pattern}", *prefixes).split("\0")
        rows = [cells[at : at + len(fields)] for at in range(0, len(cells) - 1, len(fields))]
        for row in rows[1:]:
            row[0] = row[0].removeprefix("\n")
        return rows

    def each_commit(self, prefixes: Sequence[str]) -> Iterator[RefCommit]:
        """The commit of every ref at or below one of `prefixes`, in order of their names.

        In two processes, because one that lists refs with their contents says nothing before it has read them all.
        """
        yield from self.commits([(name, oid) for name, oid in self.refs(prefixes, "refname", "objectname")])

    def commits(self, names: Sequence[tuple[str, str]]) -> Iterator[RefCommit]:
        """The commits of refs, given with the hashes that they point to; one process.

        They come while git still reads: of thousands, we have the time that it takes for ourselves.
        """
        if not names:
            return
        with tempfile.TemporaryFile() as feed:
            feed.write("".join(f"{oid}\n" for _, oid in names).encode())
            feed.seek(0)
            order = self.command("cat-file", "--batch", "--buffer")
            process = self._repo.git.execute(order, istream=feed, as_process=True)
            read, read_line = process.stdout.read, process.stdout.readline
            for name, oid in names:
                line = read_line()
                if not line:  # git has died
                    raise git_error("cat-file", 1, process.stderr.read())
                _, kind, *size = line.split()
                if not size:
                    raise _missing(oid)
                data = read(int(size[0]) + 1)[:-1].decode("utf-8", "surrogateescape")
                yield _ref_commit(name, oid, data if kind == b"commit" else "")

    def ref(self, name: str) -> str | None:
        """What a full ref name points to, or None."""
        for found, oid in self.refs(name, "refname", "objectname"):
            if found == name:
                return oid
        return None

    def remote_branches(self, prefix: str) -> list[str]:
        """Remote-tracking branches below `prefix`, such as `origin/autoresearch/nov21`."""
        names = (name.removeprefix("refs/remotes/") for (name,) in self.refs("refs/remotes/", "refname"))
        return [name for name in names if name.partition("/")[2].startswith(f"{prefix}/")]

    def ignored(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` (from the root) that the user's ignore rules cover."""
        paths = [str(self.root / path) for path in paths]
        if not paths:
            return set()
        found = self.run("check-ignore", "-z", "--no-index", "--stdin", stdin="\0".join(paths), ok=(0, 1))
        return {os.path.relpath(path, self.root) for path in found.split("\0") if path}

    def tracked(self, path: str) -> bool:
        """Whether the user's index has the file `path` (from the root)."""
        return bool(self.run("ls-files", "-z", "--", path, env=_LITERAL))

    def changed(self, folder: str) -> list[str]:
        """Paths below `folder` whose state on disk is not the one committed, untracked ones too, ignored ones not."""
        how = ("--porcelain=v1", "-z", "--no-renames", "--untracked-files=all")
        text = self.run("status", *how, "--", folder or ".", env=_LITERAL)
        return [line[3:] for line in text.split("\0") if line]

    def diff(self, old: str, new: str, paths: Iterable[str] = ()) -> str:
        """The change between two commits as a patch."""
        how = ("-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv")
        return self.run("diff-tree", *how, old, new, "--", *paths, env=_LITERAL)

    def merge(self, base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
        """Three versions of a file merged line by line; None for a conflict, and for what is not text."""
        # GIT_DIR is the user's repository, so that git looks for no other around these files.
        with tempfile.TemporaryDirectory(prefix="ark-") as folder:
            paths = [Path(folder) / name for name in ("ours", "base", "theirs")]
            for path, data in zip(paths, (ours, base, theirs), strict=True):
                path.write_bytes(data)
            try:
                merged = self.run("merge-file", "-p", "--quiet", *map(str, paths))
            except ArkError:
                return None
        return merged.encode("utf-8", "surrogateescape")

    def checked_out(self, ref: str) -> str | None:
        """The git folder of the checkout that has the branch `ref` checked out, or in a rebase; None when none has."""
        for head in (self.common / "HEAD", *self.common.glob("worktrees/*/HEAD")):
            with contextlib.suppress(OSError):
                if head.read_text().strip() == f"ref: {ref}":
                    return str(head.parent)
            for rebase in ("rebase-merge", "rebase-apply"):  # HEAD is detached meanwhile
                with contextlib.suppress(OSError):
                    if (head.parent / rebase / "head-name").read_text().strip() == ref:
                        return str(head.parent)
        return None

    # Writing objects: no process, no ref, no file of the user's

    def store_blob(self, data: bytes) -> str:
        """Write a blob with exactly these bytes: no filter sees them."""
        return self._store("blob", data)

    def store_tree(self, base: str, changes: Mapping[str, Entry | None]) -> str:
        """Write the tree of commit or tree `base` with files replaced, added or (None) removed; returns its hash."""
        oid = self._patch_tree(self._repo.tree(base).binsha, _nest(changes))
        return oid if oid is not None else self._store("tree", b"")

    def _patch_tree(self, tree: bytes | None, changes: Mapping[str, Any]) -> str | None:
        """Write `tree` with nested `changes` applied; None when nothing is left in it."""
        rows = tree_entries_from_data(self._repo.odb.stream(tree).read()) if tree is not None else []
        entries = {name: (oid, mode) for oid, mode, name in rows}
        for name, change in changes.items():
            if isinstance(change, dict):
                below = entries[name][0] if name in entries and entries[name][1] == FOLDER else None
                oid = self._patch_tree(below, change)
                if oid is None and below is None:
                    continue  # removed from a folder that is not there; a file of that name stays
                change = Entry(FOLDER, oid) if oid else None
            if change is None:
                entries.pop(name, None)
            else:
                entries[name] = (bytes.fromhex(change.oid), change.mode)
        if not entries:
            return None
        # Git sorts a folder as if its name ended in a slash.
        ordered = sorted(entries.items(), key=lambda e: _name(e[0]) + (b"/" if e[1][1] == FOLDER else b""))
        stream = io.BytesIO()
        # Bytes, because names in git need not be UTF-8.
        cells: list[Any] = [(oid, mode, _name(name)) for name, (oid, mode) in ordered]
        tree_to_stream(cells, stream.write)
        return self._store("tree", stream.getvalue())

    def store_commit(self, tree: str, parents: Iterable[str], message: str, author: tuple[str, str], when: int) -> str:
        """Write a commit by committer `ark`; `when` in seconds since 1970. Returns its hash."""
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        lines += [f"author {author[0]} <{author[1]}> {when} +0000", f"committer ark <ark@localhost> {when} +0000"]
        return self._store("commit", ("\n".join(lines) + "\n\n" + message).encode())

    def _store(self, kind: str, data: bytes) -> str:
        for pause in (0.1, 1, 5, None):
            try:
                stream = self._loose.store(IStream(kind.encode(), len(data), io.BytesIO(data)))
                break
            except OSError as error:
                # A machine at its limits refuses for a moment; that must not end a night.
                if error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM) and pause is not None:
                    time.sleep(pause)
                    continue
                raise unwritable(self.objects, error) from None
        oid = str(stream.hexsha.decode())
        with contextlib.suppress(OSError):  # one that was there already must look as young as it is wanted
            os.utime(self.objects / oid[:2] / oid[2:])
        return oid

    def pack(self) -> bool:
        """Move loose objects and refs into packs when there are many, as `git gc --auto` would; deletes nothing.

        Whether it was worth it. Another git that packs at the same time does no harm.
        """
        # The folders are filled evenly, so that one of them tells.
        try:
            loose = 256 * sum(1 for _ in (self.objects / "17").iterdir())
        except OSError:
            return False
        if loose < _MANY_LOOSE:
            return False
        self.run("repack", "-d", "-l", "-n", "-q")
        self.run("pack-refs", "--all")
        return True

    # Refs

    def update_refs(self, changes: Mapping[str, tuple[str, str]]) -> None:
        """Move refs in one transaction, `{name: (new, old)}`; `ZERO` as old expects absence, as new deletes.

        All of them or none: RefMoved when one has another value than `old`, ArkError when refs cannot be written.
        """
        lines = []
        for name, (new, old) in changes.items():
            lines.append(f"delete {name} {old}" if new == ZERO else f"update {name} {new} {old}")
        try:
            self.run("update-ref", "--no-deref", "--stdin", stdin="\n".join(lines) + "\n")
        except ArkError as error:
            for name, (_, old) in changes.items():
                now = self.ref(name) or ZERO
                if now != old:
                    raise RefMoved(f"{name} is {short(now)} and not {short(old)} as expected") from None
            raise error

    def drop_stale_locks(self, prefix: str) -> None:
        """Remove lock files that a killed git left on the ref `prefix` and below; for refs that only `ark` writes."""
        place = self.common / prefix
        found = {path: _age(path) for path in (place.with_name(f"{place.name}.lock"), *place.rglob("*.lock"))}
        if any(age is not None and age < _LOCK_SECONDS for age in found.values()):
            time.sleep(_LOCK_SECONDS)
        for path, age in found.items():
            now = _age(path)
            if age is not None and now is not None and now >= _LOCK_SECONDS:
                path.unlink(missing_ok=True)

    # Checking out, with the user's filters and attributes, into folders that git does not know

    def read_index(self, commit: str, index: Path) -> None:
        """Make `index` an index of `commit`."""
        index.unlink(missing_ok=True)
        self.run("read-tree", commit, env={"GIT_INDEX_FILE": str(index)})

    def check_out(self, index: Path, folder: Path, paths: Iterable[str] | None = None) -> None:
        """Write files of `index` below `folder` as a checkout would, all of them or just `paths`."""
        env = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(folder)}
        if paths is None:
            self.run("checkout-index", "--all", "--force", "--quiet", env=env)
        else:
            self.run("checkout-index", "--force", "--quiet", "-z", "--stdin", stdin="\0".join(paths), env=env)

    # Starting git

    def command(self, *args: str) -> list[str]:
        """The command line that starts git for `run`, or with `environment` for whoever must watch it."""
        return [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *(word for s in _SAFE for word in ("-c", s)), *args]

    @property
    def environment(self) -> dict[str, str]:
        """What such a git finds in its environment; it speaks English."""
        return {**os.environ, **self._repo.git.environment(), "LANGUAGE": "C", "LC_ALL": "C"}

    def run(
        self, *args: str, stdin: str | None = None, ok: tuple[int, ...] = (0,), env: Mapping[str, str] | None = None
    ) -> str:
        """Run git to its end and return what it printed; ArkError with git's own last words when it fails.

        For the modules of this folder.
        """
        try:
            with tempfile.TemporaryFile() as feed:
                feed.write((stdin or "").encode("utf-8", "surrogateescape"))
                feed.seek(0)
                status, out, err = self._repo.git.execute(
                    self.command(*args),
                    istream=feed,
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    env=dict(env or {}),
                )
        except git.GitCommandNotFound:
            raise ArkError("git is not installed", "install git 2.30 or newer") from None
        if status not in ok:
            raise git_error(args[0], int(status), err)
        return bytes(out).decode("utf-8", "surrogateescape")


def _missing(oid: str) -> ArkError:
    return ArkError(f"object {oid} is missing from the repository", "`git fsck` shows what is damaged")


def _ref_commit(name: str, oid: str, data: str) -> RefCommit:
    """A commit as git stores it: `tree`, `parent`, `author` and `committer` a line each, a blank line, the message."""
    head, _, message = data.partition("\n\n")
    # Git writes them in this order and no other, with hashes of 40 digits.
    tree, parent = head[5:45], head[53:93] if head.startswith("parent ", 46) else ""
    date = head.partition("\ncommitter ")[2].partition("\n")[0].rpartition("> ")[2].partition(" ")[0]
    return RefCommit(name, oid, parent, tree, message, int(date) if date.isdecimal() else 0)


def _age(path: Path) -> float | None:
    """Seconds since a file was written, or None when there is none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def unwritable(path: Path, error: OSError, otherwise: str = WRITE_HINT) -> ArkError:
    """The error for a path that cannot be written, with the hint `otherwise` unless there is no space left."""
    hint = DISK_HINT if error.errno in (errno.ENOSPC, errno.EDQUOT) else otherwise
    return ArkError(f"{path} cannot be written: {error.strerror}", hint)


def git_error(verb: str, status: int, err: str | bytes) -> ArkError:
    """The error for a git that failed, in its own last words."""
    text = err.decode("utf-8", "replace") if isinstance(err, bytes) else err
    said = [line for line in text.strip().splitlines() if line.startswith(("fatal: ", "error: "))]
    said = said or [line for line in text.strip().splitlines() if not line.startswith("hint: ")]
    said = said or [f"exit code {status}"]
    last = said[-1].removeprefix("fatal: ").removeprefix("error: ")
    hint = ""
    if "No space left" in text or "Out of diskspace" in text:
        hint = DISK_HINT
    elif "Permission denied" in text or "Read-only file system" in text:
        hint = WRITE_HINT
    elif remedy := re.search(r"^\s*(git config --global --add safe\.directory .*)$", text, re.MULTILINE):
        hint = remedy[1]
    elif ".lock'" in text:
        hint = "if no other git is at work, remove the lock file that it names"
    return ArkError(f"git {verb} failed: {last}", hint)


def _nest(changes: Mapping[str, Entry | None]) -> dict[str, Any]:
    """`{"a/b": x}` as `{"a": {"b": x}}`; what is removed gives way to what comes under the same name."""
    nested: dict[str, Any] = {}
    for path, entry in sorted(changes.items(), key=lambda change: change[1] is not None):
        *folders, name = path.split("/")
        level = nested
        for folder in folders:
            below = level.get(folder)
            if isinstance(below, Entry):
                raise ValueError(f"{path} lies below a file")
            if below is None:
                below = level[folder] = {}
            level = below
        level[name] = entry
    return nested


def _name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _start_hint(folder: Path) -> str:
    return f"start one: git init {folder} && git -C {folder} add . && git -C {folder} commit -m start"


def _forget_git_environment() -> None:
    """Drop GIT_DIR and its kin, which a hook or an alias may have left and which would redirect every git."""
    for name in list(os.environ):
        if name.startswith("GIT_") and name not in _KEPT and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]


def blob_hash(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def short(oid: str) -> str:
    """A hash as people write it."""
    return "absent" if oid == ZERO else oid[:10]
