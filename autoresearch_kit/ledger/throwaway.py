"""A throwaway repository beside the user's: the same objects, settings and ignore rules, and refs of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import DISK_HINT, Repository

_SHARED = ("config", "info/exclude", "info/attributes", "shallow")
"""Files of the user's git folder that say how its files are read."""
_IGNORE_RULES = ".gitignore"


def throwaway(repository: Repository, root: Path, commit: str) -> Repository:
    """Make a repository in the new folder `root` whose HEAD is `commit` of `repository`; nothing is written there.

    Only ignore rules are checked out. Whoever removes `root` has removed everything.
    """
    git = root / ".git"
    try:
        (git / "info").mkdir(parents=True)
        (git / "refs").mkdir()
        (git / "objects/info").mkdir(parents=True)
        for name in _SHARED:
            if (repository.common / name).is_file():
                shutil.copyfile(repository.common / name, git / name)
        with (git / "config").open("ab") as file:  # the last word on what the user's own checkout may have said
            file.write(b"\n[core]\n\tbare = false\n\tworktree = " + _quoted(root) + b"\n")
        (git / "objects/info/alternates").write_bytes(os.fsencode(alternate(repository.objects)))
        (git / "HEAD").write_text(f"{commit}\n")
        rules = [path for path in repository.files(commit) if path.rpartition("/")[2] == _IGNORE_RULES]
        for path in rules:
            if (repository.root / path).is_file():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(repository.root / path, root / path)
        made = Repository(root)
        made.read_index(commit, git / "index")
    except OSError as error:
        raise ArkError(f"{root} cannot be written: {error.strerror}", DISK_HINT) from None
    return made


def alternate(objects: Path) -> str:
    """The line by which a repository shares the object database `objects`."""
    text = str(objects)
    if "\n" in text:
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return f"{text}\n"


def _quoted(path: Path) -> bytes:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return os.fsencode(f'"{text}"')
