"""A spec and the repository around it: what a folder on the command line stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError, SpecError
from autoresearch_kit.core.globs import compile_globs, is_glob
from autoresearch_kit.core.names import RUN_LOG, SPEC_NAME
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import load_spec
from autoresearch_kit.lab.desk import Place
from autoresearch_kit.ledger.git import GITLINK, SYMLINK, Entry, Repository


@dataclass(frozen=True, slots=True)
class Project:
    """One spec in one repository."""

    spec: Spec
    """What to do."""
    folder: Path
    """The spec's folder in the user's checkout."""
    repository: Repository
    """The user's repository."""
    place: Place
    """The spec's folder and mutable files as seen from the root of the repository."""

    @property
    def spec_path(self) -> Path:
        """The file that was read."""
        return self.folder / self.place.spec_name

    @property
    def spec_name(self) -> str:
        """Path of the spec from the root of the repository."""
        return self.place.prefix + self.place.spec_name

    def yardstick(self, files: Mapping[str, Entry]) -> str:
        """Digest of everything that fixes the number except the mutable files and the spec's other keys."""
        digest = hashlib.sha256(self.spec.yardstick.encode())
        for path in sorted(files):
            if path != self.spec_name and not self.place.is_mutable(path):
                digest.update(f"{files[path].mode:o} {files[path].oid} {path}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def replaceable(self, files: Mapping[str, Entry]) -> list[str]:
        """Committed files that no attempt may change and that a run can replace before its evaluation nevertheless,
        because `artifacts` names them; as they are called there."""
        if self.spec.eval_command is None:
            return []
        names = [name for name in self.spec.artifacts if not is_glob(name) and name != RUN_LOG]
        paths = {name: self.place.prefix + name for name in dict.fromkeys(names)}
        return [name for name, path in paths.items() if path in files and not self.place.is_mutable(path)]


def find_spec(where: Path) -> Path:
    """The spec that `where`, a folder or the file itself, stands for."""
    if where.is_dir():
        return where / SPEC_NAME
    if where.suffix in {".yaml", ".yml"}:
        return where
    raise SpecError([f"{where} is neither a folder nor a spec"], "give the folder that holds the spec")


def with_name(spec: Spec, path: Path) -> Spec:
    """A spec without a name is called after its folder."""
    return spec if spec.name else spec.model_copy(update={"name": path.resolve().parent.name})


def open_project(where: Path) -> Project:
    """Read the spec and open the repository around it; ArkError with a hint for whatever is wrong."""
    path = find_spec(where)
    spec = with_name(load_spec(path), path)
    folder = path.parent.resolve()
    repository = Repository(folder)
    root = repository.root.resolve()
    prefix = folder.relative_to(root).as_posix() + "/"
    place = Place.of("" if prefix == "./" else prefix, path.name, spec.mutable_files)
    return Project(spec, folder, repository, place)


def check_files(project: Project, files: Mapping[str, Entry], where: str) -> None:
    """Hold the spec's file lists against a commit; SpecError with every mismatch."""
    spec, prefix, problems = project.spec, project.place.prefix, []
    inner = {path[len(prefix) :]: entry for path, entry in files.items() if path.startswith(prefix)}
    for name in [*spec.mutable_files, *spec.immutable_files]:
        if not is_glob(name) and name not in inner:
            below = any(path.startswith(f"{name}/") for path in inner)
            advice = f"write `{name}/` for everything in that folder" if below else "commit it, or correct the list"
            problems.append(f"{project.spec_path}: `{name}` is not a file in {where}; {advice}")
    immutable = compile_globs(spec.immutable_files)
    for path, entry in inner.items():
        if project.place.is_mutable(prefix + path):
            if immutable.matches(path):
                problems.append(f"{project.spec_path}: `{path}` is both mutable and immutable; narrow one of the lists")
            if entry.mode in (SYMLINK, GITLINK):
                kind = "a symbolic link" if entry.mode == SYMLINK else "a submodule"
                problems.append(f"{project.spec_path}: `{path}` is mutable and {kind}; plain files only")
    if problems:
        raise SpecError(problems)


def check_submodules(project: Project, files: Mapping[str, Entry], links: Mapping[str, Path]) -> None:
    """ArkError for submodules that a bench would lack: their content is not in this repository."""
    missing = [path for path, entry in files.items() if entry.mode == GITLINK and path not in links]
    if missing:
        up = "../" * project.place.prefix.count("/")
        entry = json.dumps([up + path for path in missing])
        raise ArkError(
            f"the repository has submodules whose files a bench would lack: {', '.join(missing)}",
            f"share your checkout of them with the run, by this line in {project.place.spec_name}: link: {entry}",
        )


def check_limits(project: Project, also: Mapping[str, float]) -> None:
    """SpecError for limits on metrics that are not among those which the baseline or head was seen to give."""
    missing = [limit.metric for limit in project.spec.constraints if limit.metric not in also]
    if missing:
        raise SpecError(
            [f"{project.spec_path}: `constraints` limits {name}, which nothing measures" for name in missing],
            f"correct the name, or print it as `NAME: NUMBER`; what there is: {', '.join(sorted(also))}",
        )


def count_lines(repository: Repository, old: Mapping[str, Entry], new: Mapping[str, Entry]) -> int:
    """How many non-blank lines the files of a tree lost from `old` to `new`, whatever ends a line."""

    def lines(entry: Entry | None) -> int:
        return 0 if entry is None else sum(1 for line in repository.blob(entry.oid).splitlines() if line.strip())

    changed = {*old, *new} if old.keys() != new.keys() else old.keys()
    return sum(lines(old.get(path)) - lines(new.get(path)) for path in changed if old.get(path) != new.get(path))
