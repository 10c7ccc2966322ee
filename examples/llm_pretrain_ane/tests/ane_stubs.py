"""Checkpoints as the harness and the lineage see them: a sound header, something behind it, and the checksum of all."""

from __future__ import annotations

import zlib
from pathlib import Path

from ane_modules import load

lineage = load("lineage")


def sealed(data: bytes) -> bytes:
    """With the CRC-32 of all of it behind it."""
    return data + zlib.crc32(data).to_bytes(4, "little")


def stub(content: str, architecture: str) -> bytes:
    header = (b"ARKANE01" + bytes(8) + architecture.encode()).ljust(lineage._HEADER_BYTES - 4, b"\0")
    return sealed(sealed(header) + content.encode())


def content(checkpoint: Path) -> str:
    """What `stub` was given."""
    return checkpoint.read_bytes()[lineage._HEADER_BYTES : -4].decode()
