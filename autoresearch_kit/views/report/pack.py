"""What a page carries besides its tables: patches, reasons and logs, compressed, and no more of them than fits."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from typing import Any

PATCH_CHARACTERS = 20_000
"""Of one patch; the rest is one `git show` away."""
PACKED_BYTES = 420_000
"""Of all details, compressed and in base64."""

# Controls but tab and newline, what is invisible, and what turns the direction of writing: shown by name, so that a
# patch looks like what a compiler reads.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def plain_patch(patch: str) -> tuple[str, bool]:
    """A patch that can be shown anywhere, and whether it was cut; hidden characters are shown by name."""
    cut = len(patch) > PATCH_CHARACTERS
    if cut:
        patch = patch[:PATCH_CHARACTERS].rpartition("\n")[0]
    patch = patch.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", patch.replace("\r\n", "\n")), cut


def pack(value: Any) -> str:
    """Anything as gzipped JSON in base64; the same bytes for the same value."""
    packer = Packer(None)
    packer.write(_json(value))
    return packer.end()


def pack_details(details: Iterable[tuple[int, dict[str, Any]]], limit: int = PACKED_BYTES) -> tuple[str, set[int]]:
    """Details by number as one packed object, in this order until `limit` bytes are full; and which are in it."""
    packer = Packer(limit)
    inside: set[int] = set()
    packer.write("{")
    for number, found in details:
        if packer.is_full:
            break
        packer.write(f"{',' if inside else ''}\n{json.dumps(str(number))}:{_json(found)}")
        inside.add(number)
    packer.write("}")
    return packer.end(), inside


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class Packer:
    """Compresses texts one after another and tells when they fill `limit` bytes of base64."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        # gzip without a name or a time: the same report for the same ledger
        self._stream = zlib.compressobj(9 if limit is None else 6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._out = bytearray()
        self._waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached, give or take some kilobytes."""
        return self._limit is not None and len(self._out) * 4 / 3 >= self._limit

    def write(self, text: str) -> None:
        """Take more text."""
        data = text.encode()
        self._out += self._stream.compress(data)
        self._waiting += len(data)
        if self._limit is not None and self._waiting > 65_536:
            self._out += self._stream.flush(zlib.Z_SYNC_FLUSH)
            self._waiting = 0

    def end(self) -> str:
        """All of it, in base64."""
        self._out += self._stream.flush()
        return base64.b64encode(bytes(self._out)).decode()
