"""A file of a data set repository on the Hugging Face hub: whole, checked, and continued where it stopped."""

from __future__ import annotations

import errno
import http.client
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from data import DataError, need, sha256, whole

ATTEMPTS = 5
PAUSE_SECONDS = 2.0  # before the second attempt at a download; doubled before each further one
TIMEOUT_SECONDS = 30.0
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


class _SameHostOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects, takes the token along to the same host only, and keeps what the hub says about the file."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(self, request, file, code, message, headers, url):  # type: ignore[no-untyped-def]
        self.linked.update({key.lower(): value for key, value in headers.items() if key.lower().startswith("x-linked")})
        following = super().redirect_request(request, file, code, message, headers, url)
        old, new = urllib.parse.urlsplit(request.full_url), urllib.parse.urlsplit(url)
        if following and (old.netloc != new.netloc or (old.scheme == "https" != new.scheme)):
            following.remove_header("Authorization")
        return following


def download(repository: str, filename: str, folder: Path, bar: Progress, stop: threading.Event) -> Path:
    """A file of a data set repository on the Hugging Face hub, in `folder`, whole. DataError names what is missing.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count as in huggingface_hub. Its own download begins anew after a kill
    (seen in 2.4: its temporary name is new each time), so bytes come by HTTP Range, onto `<name>.part`. A file gets its
    name when its size is right, its SHA-256 is the one the hub states (where it does), and, for Parquet, its footer
    can be read. The hash is kept beside it. `stop` ends the download; what has arrived stays.
    """
    path, part, stamp = (folder / f"{filename}{end}" for end in ("", ".part", ".sha256"))
    if path.exists() and stamp.exists():
        return path
    hub = need("huggingface_hub")
    what = f"{filename} of {repository}"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise DataError(f"{what} is not here, and HF_HUB_OFFLINE is set.", "unset HF_HUB_OFFLINE")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = hub.hf_hub_url(repository, filename, repo_type="dataset", endpoint=endpoint)
    folder.mkdir(parents=True, exist_ok=True)
    reason = ""
    for attempt in range(ATTEMPTS):
        if stop.wait(PAUSE_SECONDS * 2 ** (attempt - 1) if attempt else 0):
            break
        try:
            expected = _fetch(url, hub.get_token(), part, bar, stop)
            digest = sha256(part)
            if expected is not None and digest != expected:
                part.unlink()
                raise _Again(f"its SHA-256 is not the one that {endpoint} states")
            if filename.endswith(".parquet"):
                _check_footer(part)
            with whole(stamp) as file:
                file.write(f"{digest}  {filename}\n".encode())
            part.replace(path)
            return path
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code in (401, 403):
                raise DataError(
                    f"{what}: {endpoint} refuses it ({reason}).",
                    f"export HF_TOKEN=..., after accepting the terms on {endpoint}/datasets/{repository}",
                ) from None
            if error.code in (404, 410):
                raise DataError(f"{what} is missing at {endpoint} ({reason}).", "check HF_ENDPOINT") from None
        except _Again as error:
            reason = str(error)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            reason = str(getattr(error, "reason", None) or error)
        except (http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise DataError(
        f"{what} could not be downloaded from {endpoint} in {ATTEMPTS} attempts: {reason}.",
        "run the same command again to go on where it stopped; HF_ENDPOINT names a mirror",
    )


class _Again(Exception):
    """An attempt at a download failed in a way that the next one may not."""


def _fetch(url: str, token: str | None, part: Path, bar: Progress, stop: threading.Event) -> str | None:
    """Brings `part` to its full size, from where it ends; the SHA-256 that the hub states, if it states one."""
    have = part.stat().st_size if part.exists() else 0
    tag_file = part.with_name(f"{part.name}.etag")
    headers = {"User-Agent": "ark-prepare", "Accept-Encoding": "identity"}
    if have and tag_file.exists():
        headers["Range"] = f"bytes={have}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    redirects = _SameHostOnly()
    opener = urllib.request.build_opener(redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        part.unlink()  # longer than the file is today, or killed at its very end: fetched anew, not guessed about
        raise _Again("the server has another size of it now") from None
    with response:
        tag = redirects.linked.get("x-linked-etag") or response.headers.get("ETag") or ""
        tag = tag.removeprefix("W/").strip('"')
        if response.status == 206:
            given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != have or tag != tag_file.read_text():
                part.unlink()
                raise _Again("it changed between two attempts")
            total = int(given[2])
        else:
            have = 0
            total = int(response.headers.get("Content-Length") or redirects.linked.get("x-linked-size") or -1)
        # Unbuffered: a kill loses nothing that has arrived. The tag comes after what it does not belong to is gone.
        with part.open("ab" if have else "wb", buffering=0) as file:
            if not have:
                tag_file.write_text(tag)
            while not stop.is_set() and (block := response.read1(1 << 20)):
                file.write(block)
                have += len(block)
                bar.add(len(block))
    if have != total and total >= 0:
        raise _Again(f"the line broke at {have} of {total} bytes")
    if total < 0 and not part.name.endswith(".parquet.part"):
        raise _Again("the server does not say how long it is")
    tag_file.unlink(missing_ok=True)
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else None


def _check_footer(path: Path) -> None:
    """A Parquet file that was cut short has no footer."""
    try:
        need("pyarrow.parquet").read_metadata(path)
    except (need("pyarrow").ArrowException, OSError) as error:
        path.unlink()
        raise _Again(f"it is not a Parquet file ({str(error).splitlines()[0]})") from None


class Progress:
    """A bar on a terminal; elsewhere a line every fifteen seconds. Both on stderr."""

    def __init__(self, what: str, total: int | None, unit: str = "it", scale: bool = False) -> None:
        self.what, self.total, self.unit, self.done, self.spoke = what, total, unit, 0, time.monotonic()
        self.scale = 1e6 if scale else 1
        self.lock = threading.Lock()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = need("tqdm").tqdm(desc=what, total=total, unit=unit, unit_scale=scale)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, amount: int) -> None:
        with self.lock:
            self.done += amount
            if self.bar is not None:
                self.bar.update(amount)
            elif time.monotonic() - self.spoke > 15:
                self.spoke = time.monotonic()
                of = "" if self.total is None else f" of {self.total / self.scale:,.0f}"
                say(f"{self.what}: {self.done / self.scale:,.0f}{of} {'M' if self.scale > 1 else ''}{self.unit}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
