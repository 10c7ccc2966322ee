"""What hostile output, odd line ends and many logs must not do: hang the engine, pass for shorter code, fill the disk.

pytest tests/lab/test_hostile.py
"""

import os
import subprocess
from pathlib import Path

import pytest

from autoresearch_kit.core.metrics import read_metrics
from autoresearch_kit.lab.cache import trim_logs
from autoresearch_kit.ledger.git import Entry, Repository
from autoresearch_kit.project import count_lines


def test_a_pattern_and_a_line_without_end() -> None:
    """This search takes time with the square of the line: it once went on for hours."""
    reading = read_metrics("7" * 3_000_000 + "\ntook 12 ms\n", "ms", pattern=r"([0-9.]+) ms$")
    assert (reading.value, reading.problem) == (12.0, "")
    assert read_metrics("x" * 9_000 + " 12 ms", "ms", pattern=r"([0-9.]+) ms$").value == 12.0


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_any_line_end_ends_a_line(tmp_path: Path, end: bytes) -> None:
    """Python runs source with bare carriage returns, which once counted as one line."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=U", "-c", "user.email=u@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    repository = Repository(tmp_path)
    old = Entry(0o100644, repository.store_blob(b"a = 1\nb = 2\n\nc = 3\n"))
    new = Entry(0o100644, repository.store_blob(end.join([b"a = 1", b"b = 2", b"", b"c = 4", b""])))
    assert count_lines(repository, {"x.py": old}, {"x.py": new}) == 0
    assert count_lines(repository, {"x.py": new}, {"x.py": None}) == 3
    repository.close()


def test_old_logs_keep_their_end_and_older_ones_go(tmp_path: Path) -> None:
    text = b"".join(b"line %06d\n" % number for number in range(20_000))
    for name in ("0200.run.log", "0280.run.log", "0281.eval.log", "0300.run.log", "search.log", "setup.log"):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "elsewhere").write_bytes(text)
    (tmp_path / "0280.eval.log").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "0280.check.log")
    for _ in range(2):
        trim_logs(tmp_path, 300)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {name for name, size in sizes.items() if 0 < size < 66_000} == {"0280.run.log"}
    assert "0200.run.log" not in sizes and len(sizes) == 8
    kept = (tmp_path / "0280.run.log").read_bytes()
    assert kept.startswith(b"[ark: ")
    assert kept.endswith(text[-60_000:])
    trim_logs(tmp_path / "nowhere", 300)
