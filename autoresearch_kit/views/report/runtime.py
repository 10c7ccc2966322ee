"""Vega, the library that draws the chart in a page, as one script that needs no network and no `eval`.

vl-convert carries it. Making one script of it takes a second, so the result is kept in the user's cache.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import os
import zlib
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


@dataclass(frozen=True, slots=True)
class Runtime:
    """The script."""

    packed: str
    """Gzipped, in base64."""
    digest: str
    """SHA-256 of the script itself in base64, as a content security policy wants it."""


def load_runtime() -> Runtime:
    """From the cache, else made anew; a file that is not what was written there is made anew too."""
    path: Path | None = None
    with contextlib.suppress(ArkError):  # without a home, or where nothing can be written
        path = cache_root() / f"vega-{version('vl-convert-python')}"
        if (found := _read(path)) is not None:
            return found
    script = _make()
    runtime = Runtime(base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode(), digest(script))
    if path is not None:
        with contextlib.suppress(ArkError, OSError):
            make_private(path.parent)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(f"{runtime.digest}\n{runtime.packed}\n")
            temporary.replace(path)
    return runtime


def digest(script: str) -> str:
    """What a content security policy calls a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _make() -> str:
    import vl_convert

    try:
        return str(vl_convert.javascript_bundle(SNIPPET.format(version=vl_convert.get_vega_version())))
    except BaseException as error:  # a module that it lacks is a panic, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ArkError(
            "the installed vl-convert has no Vega that a page could carry",
            "pip install 'vl-convert-python>=1.8,<2'; --plot FILE.svg draws the chart alone",
        ) from None


def _read(path: Path) -> Runtime | None:
    try:
        known, packed = path.read_text().split("\n")[:2]
        script = gzip.decompress(base64.b64decode(packed, validate=True)).decode()
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    return Runtime(packed, known) if digest(script) == known else None
