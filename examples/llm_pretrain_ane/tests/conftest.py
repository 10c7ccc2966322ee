"""Marks of these tests, for when the folder stands alone, and a copy of the example for those of the harness."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ane_example import Example


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path / "example")


@pytest.fixture(scope="session")
def old_python() -> str:
    """A Python 3.9, which Apple's command line tools bring: on the path, or installed beside this one."""
    beside = map(str, Path(sys.base_prefix).parent.glob("3.9*/bin/python3"))
    for found in filter(None, [shutil.which("python3.9"), *beside]):
        told = subprocess.run([found, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if told.stdout == "3 9\n":
            return found
    pytest.skip("no Python 3.9 on this machine")
