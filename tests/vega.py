"""A cache in which the script that draws the charts lies ready: making it takes seconds. Fixtures, to be imported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.views.report.runtime import load_runtime


@pytest.fixture(scope="session")
def _made_vega(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("vega")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        load_runtime()
    return cache / "ark"


@pytest.fixture
def ready_vega(tiny: Any, _made_vega: Path) -> None:
    shutil.copytree(_made_vega, tiny.cache / "ark")
