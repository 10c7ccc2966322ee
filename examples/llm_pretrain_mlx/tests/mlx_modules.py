"""How the tests reach the modules beside this folder, whatever other `train` or `evaluate` the process has seen.

pytest examples/llm_pretrain_mlx/tests
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

EXAMPLE = Path(__file__).resolve().parents[1]
MODULES = ("data", "download", "prepare", "stories", "command", "graph", "evaluate", "machine", "train")
_loaded: dict[str, ModuleType] = {}


def load(name: str) -> ModuleType:
    """The module of that name in this example; sys.path and sys.modules stay as they were."""
    before = {module: sys.modules.pop(module) for module in MODULES if module in sys.modules}
    sys.modules.update(_loaded)
    sys.path.insert(0, str(EXAMPLE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLE))
        _loaded.update({module: sys.modules.pop(module) for module in MODULES if module in sys.modules})
        sys.modules.update(before)
