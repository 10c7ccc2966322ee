"""How the tests reach the Python modules beside this folder, whatever other `prepare` the process has seen."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

EXAMPLE = Path(__file__).resolve().parents[1]
_loaded: dict[str, ModuleType] = {}


def load(name: str) -> ModuleType:
    """The module of that name in this example; sys.path and sys.modules stay as they were."""
    modules = {path.stem for path in EXAMPLE.glob("*.py")}
    before = {module: sys.modules.pop(module) for module in modules & set(sys.modules)}
    sys.modules.update(_loaded)
    sys.path.insert(0, str(EXAMPLE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLE))
        _loaded.update({module: sys.modules.pop(module) for module in modules & set(sys.modules)})
        sys.modules.update(before)
