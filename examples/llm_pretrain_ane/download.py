"""One file of a data set repository on the Hugging Face hub, whole and checked, and one member of a tar archive."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from failure import Failure
from failure import sha256 as file_sha256

ATTEMPTS = 5
PAUSE_SECONDS = 2.0  # before the second attempt; doubled before each further one
TIMEOUT_SECONDS = 30.0
MOST_BYTES = 4 << 30  # of an archive, and of what is unpacked on the way to a member
BLOCK = 1 << 20
PROGRESS_SECONDS = 15.0
GZIP = b"\x1f\x8b"


class _Again(Exception):
    """An attempt failed in a way in which the next one may not."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, never from https to http, and keeps what the hub says about the file on the way."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        self.linked.update({key.lower(): value for key, value in headers.items() if key.lower().startswith("x-linked")})
        if request.full_url.startswith("https:") and not url.startswith("https:"):
            raise Failure(f"{request.full_url} leads away from https", "check HF_ENDPOINT")
        return super().redirect_request(request, file, code, message, headers, url)


def fetch(repository: str, name: str, path: Path, sha256: str | None = None) -> None:
    """The gzip file `name` as `path`. HF_ENDPOINT and HF_HUB_OFFLINE count as for the hub's own programs.

    What arrives goes to `<path>.part`, and the next attempt or command goes on there. The file has its name when its
    SHA-256 is the given one, else the one that the hub states. Failure says what cannot be had.
    """
    if path.exists():
        return
    what = f"{name} of {repository}"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Failure(f"{what} is not here, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if not endpoint.startswith(("https://", "http://")):
        raise Failure(f"HF_ENDPOINT is {endpoint[:80]!r}, and no address", "export HF_ENDPOINT=https://...")
    url = f"{endpoint.rstrip('/')}/datasets/{repository}/resolve/main/{urllib.parse.quote(name)}"
    part = path.with_name(f"{path.name}.part")
    reason = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        try:
            stated = _arrive(url, part)
            _check(part, sha256 or stated, endpoint)
            part.replace(path)
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code in (401, 403, 404, 410):
                raise Failure(f"{what} cannot be had from {endpoint} ({reason})", "check HF_ENDPOINT") from None
        except _Again as error:
            reason = str(error)
        # In Python 3.9 socket.timeout is no TimeoutError.
        except (urllib.error.URLError, ConnectionError, socket.timeout) as error:  # noqa: UP041
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise Failure(
                    f"{endpoint} cannot prove who it is to this Python ({error.reason.verify_message})",
                    "export SSL_CERT_FILE=/a/file/of/certificates, or on a Mac run Install Certificates.command, which"
                    " python.org's Python brings",
                ) from None
            reason = str(getattr(error, "reason", None) or error)
        except (http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise Failure(
        f"{what} could not be downloaded from {endpoint} in {ATTEMPTS} attempts: {reason}",
        "the same command goes on where it stopped; HF_ENDPOINT names a mirror",
    )


def _arrive(url: str, part: Path) -> str | None:
    """Brings `part` to its full size from where it ends; the SHA-256 that the hub states, if it states one."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "ark-prepare", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left to fetch, or the part is longer than the file: the hash tells.
        tag = _sha256({**redirects.linked, **_lower(error.headers)})
        error.close()
        return tag
    with response:
        tag = _sha256({**_lower(response.headers), **redirects.linked})
        if response.status == 206:
            given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != have or tag is None:
                part.unlink()
                raise _Again("it cannot be continued")
            total = int(given[2])
        else:
            have, total = 0, int(response.headers.get("Content-Length") or -1)
        if max(have, total) > MOST_BYTES:
            raise Failure(f"{url} has {total} bytes, and {MOST_BYTES} are the most")
        _write(response, part, have, total)
    return tag


def _write(response: Any, part: Path, have: int, total: int) -> None:
    spoke = time.monotonic()
    with part.open("ab" if have else "wb", buffering=0) as file:
        while block := response.read1(BLOCK):
            if have == 0 and not block.startswith(GZIP):
                file.truncate(0)
                raise _Again("what came is no gzip file, perhaps a page that says why")
            file.write(block)
            have += len(block)
            if have > MOST_BYTES:
                raise Failure(f"{part} became longer than {MOST_BYTES} bytes", f"rm {part}")
            if time.monotonic() - spoke > PROGRESS_SECONDS:
                spoke = time.monotonic()
                of = f" of {total / 1e6:,.0f}" if total > 0 else ""
                print(f"{part.name}: {have / 1e6:,.0f}{of} MB", file=sys.stderr, flush=True)
    if 0 <= total != have:
        raise _Again(f"{have} of {total} bytes came")


def _lower(headers: Any) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}


def _sha256(headers: dict[str, str]) -> str | None:
    """The hub's name of a large file is its SHA-256."""
    tag = headers.get("x-linked-etag", "").removeprefix("W/").strip('"').lower()
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else None


def _check(part: Path, expected: str | None, endpoint: str) -> None:
    digest = file_sha256(part)
    if expected is None:
        print(f"notice: {endpoint} states no SHA-256; pin it by --sha256 {digest}", file=sys.stderr)
    elif digest != expected:
        part.unlink()
        raise _Again(f"its SHA-256 is {digest}, not {expected}")
    else:
        print(f"{part.name.removesuffix('.part')}: SHA-256 {digest}", file=sys.stderr)


def member(archive: Path, name: str, path: Path, most_bytes: int) -> None:
    """Writes the plain file `name`, in whatever folder of the archive, as `path`. Nothing else is unpacked."""
    passed = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for entry in tar:
                passed += entry.size
                if passed > MOST_BYTES:
                    break
                if PurePosixPath(entry.name).name == name and entry.isreg():
                    if entry.size > most_bytes:
                        raise Failure(
                            f"{name} of {archive} has {entry.size} bytes, and {most_bytes} are the most",
                            "the same command fetches it anew",
                        )
                    _unpack(tar, entry, path)
                    return
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Failure(f"{archive} is no whole tar.gz archive ({error})", "the same command fetches it anew") from None
    raise Failure(f"{archive} holds no plain file {name}", "the same command fetches it anew")


def _unpack(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(entry)
    assert source is not None  # of a plain file
    with source, open(path, "xb") as file:
        left = entry.size
        while left and (block := source.read(min(left, BLOCK))):
            file.write(block)
            left -= len(block)
    if left:
        raise EOFError("it ends early")
