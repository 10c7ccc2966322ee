"""Vega, the library that draws the chart in a page, as one script that needs no network and no `eval`.

vl-convert carries it. Making one script of it takes a second, so the result is kept in the user's cache.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab.cache import cache_root, make_private

SNIPPET = """
import {{ View, parse }} from "https://cdn.jsdelivr.net/npm/vega@{version}/+esm";
import {{ expressionInterpreter }} from "https://cdn.jsdelivr.net/npm/vega-interpreter@2.0.0/+esm";
window.vega = {{ View, parse }};
window.vegaInterpreter = expressionInterpreter;
"""
"""By these names vl-convert has the two modules in itself; nothing is fetched from there."""
WITH_EVAL = "window.vega = vegaEmbed.vega;"
"""For a vl-convert that knows them by other names."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The script."""

    packed: str
    """Gzipped, in base64."""
    digest: str
    """SHA-256 of the script itself in base64, as a content security policy wants it."""
    needs_eval: bool
    """Whether a page must allow `eval` for it: where this vl-convert lacks the interpreter."""


def load_runtime() -> Runtime:
    """From the cache, else made anew; a file that is not what was written there is made anew too."""
    path: Path | None = None
    with contextlib.suppress(ArkError):  # without a home, or where nothing can be written
        path = cache_root() / f"vega-{version('vl-convert-python')}-1"
        if (found := _read(path)) is not None:
            return found
    script, needs_eval = _make()
    raw = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
    runtime = Runtime(raw, digest(script), needs_eval)
    if path is not None:
        with contextlib.suppress(ArkError, OSError):
            make_private(path.parent)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(f"{runtime.digest}\n{int(needs_eval)}\n{raw}\n")
            temporary.replace(path)
    return runtime


def digest(script: str) -> str:
    """What a content security policy calls a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _make() -> tuple[str, bool]:
    import vl_convert

    try:
        return str(vl_convert.javascript_bundle(SNIPPET.format(version=vl_convert.get_vega_version()))), False
    except ValueError:
        return str(vl_convert.javascript_bundle(WITH_EVAL)), True


def _read(path: Path) -> Runtime | None:
    try:
        known, needs_eval, packed = path.read_text().split("\n")[:3]
        script = gzip.decompress(base64.b64decode(packed, validate=True)).decode()
    except (OSError, ValueError, EOFError):
        return None
    except Exception:  # zlib has an error of its own
        return None
    return Runtime(packed, known, needs_eval == "1") if digest(script) == known else None
