"""Where any commit of a project is measured: a checked project, its links, and a bench in the cache.

A run, a verification, an exam and a look at the noise all measure in the same way, so they all do it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Measurement
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.desk import read_links
from autoresearch_kit.lab.inputs import Inputs
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.lab.measure import Bench, Scratch, Watcher
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.project import Project, check_files, check_submodules


class Workshop:
    """A bench for `project`, in the cache folder `name`; whoever opens it holds a lock on that name."""

    def __init__(self, project: Project, name: str, base: str, label: str, watch: Watcher = lambda phase: None) -> None:
        """`base` is the commit whose fixed files are used, `label` what commands see as ARK_TAG.

        ArkError for everything that is wrong with the project and can be seen before a measurement.
        """
        repository, place = project.repository, project.place
        self.project = project
        self.base = base
        self.label = label
        self.base_files = repository.files(base)
        self.links = read_links(repository.root, place.prefix, project.spec.link)
        check_files(project, self.base_files, "the commit that the run starts from")
        check_submodules(project, self.base_files, self.links)
        self._inputs = Inputs(project.folder, project.spec.inputs)
        if project.spec.setup_command is None:
            self._inputs.check()
        self.yardstick = project.yardstick(self.base_files)
        """Digest of everything that fixes the number except the mutable files."""
        self.folder = cache.run_cache(repository.common, name)
        """Where bench and logs are."""
        cache.make_private(self.folder / "logs")
        self.bench = Bench(
            repository,
            self.folder / "bench",
            base,
            place.prefix,
            project.spec,
            self.links,
            self.folder / "logs",
            Scratch(cache.scratch_path(self.folder)),
            watch,
        )

    def close(self) -> None:
        """End helper processes; safe to call twice."""
        self.bench.close()

    def set_up(self) -> None:
        """Run the set-up command unless this machine has run it for this yardstick, and pinned inputs are there still.

        ArkError when it fails, or when an input is not the pinned one then.
        """
        command = self.project.spec.setup_command
        stamp = self.folder / f"setup.{self.yardstick}"
        done = stamp.is_file() and stamp.read_text() == machine() and not self._inputs.missing()
        if command is not None and not done:
            if problem := self.bench.set_up(self.base_files, self.base, self.label):
                raise ArkError(f"the set-up command failed: {problem}", f"it is `{command}`; run it by hand")
            stamp.write_text(machine())
        self._inputs.check()

    def measure(
        self, commit: str, number: int = 0, sample: int = 0, files: Mapping[str, Entry] | None = None
    ) -> Measurement:
        """Measure the files of `commit` once, with a fresh seed; ArkError when a pinned input is another afterwards.

        `number` is what the commands see as ARK_ATTEMPT, `sample` counts the measurements under that number, for the
        names of the logs. `files` spares a look at the commit.
        """
        found = self.project.repository.files(commit) if files is None else files
        measured = self.bench.measure(found, commit, number, self.label, sample)
        self._inputs.check()
        return measured

    def failed_check(self, number: int) -> str:
        """Run the spec's checks on what was measured last; the first failure as a sentence, empty when all pass."""
        return self.bench.failed_check(number, self.label)
