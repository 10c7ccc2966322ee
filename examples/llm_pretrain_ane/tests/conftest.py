"""Marks of these tests, for when the folder stands alone, and a copy of the example for those of the harness."""

from __future__ import annotations

from pathlib import Path

import pytest
from ane_example import Example


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path / "example")
