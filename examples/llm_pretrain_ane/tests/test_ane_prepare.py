"""Token files: from a hub that behaves like the real one and misbehaves like others, and made-up ones.

pytest examples/llm_pretrain_ane/tests/test_ane_prepare.py
"""

from __future__ import annotations

import hashlib
import io
import math
import random
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from array import array
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from ane_modules import EXAMPLE, load

prepare, download, stories = load("prepare"), load("download"), load("stories")
PATH = "/datasets/enio/TinyStories/resolve/main/tok32000/TinyStories_tok32000.tar.gz"
COUNT = 520_000


def archive(*members: tuple[str, bytes, bytes]) -> bytes:
    """A tar.gz of (name, type, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, kind, content in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(content)
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.size, entry.linkname = 0, content.decode()
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


TOKENS = array("H", [1, *random.Random(1).choices(range(32000), k=COUNT - 1)]).tobytes()
GOOD = archive(
    ("../../outside.bin", tarfile.REGTYPE, b"no"),
    ("data/data00.bin", tarfile.REGTYPE, TOKENS),
    ("data/data01.bin", tarfile.REGTYPE, b"no"),
)


class Hub:
    """Redirects to a server of files, which continues downloads; `states` and `cuts` say how it misbehaves."""

    def __init__(self) -> None:
        self.data, self.states, self.cuts, self.ranges = GOOD, "", 0, True
        self.stalls = False  # a cut download is not closed, but says no more
        self.status, self.log = 200, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.log.append((self.path, self.headers.get("Range")))
                if self.path == PATH:
                    hub.redirect(self)
                else:
                    hub.file(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def redirect(self, request: BaseHTTPRequestHandler) -> None:
        if self.status != 200:
            request.send_error(self.status)
            return
        request.send_response(302)
        request.send_header("Location", "/file")
        request.send_header("Content-Length", "0")
        stated = self.states or hashlib.sha256(self.data).hexdigest()
        if stated != "nothing":
            request.send_header("X-Linked-Etag", f'"{stated}"')
        request.end_headers()

    def file(self, request: BaseHTTPRequestHandler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        begin = int(wanted[1]) if wanted and self.ranges else 0
        if begin >= len(self.data) > 0 and wanted:
            request.send_error(416)
            return
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}")
        request.send_header("Content-Length", str(len(self.data) - begin))
        request.end_headers()
        end = len(self.data)
        if self.cuts:
            self.cuts -= 1
            end = begin + (end - begin) // 2
            request.close_connection = True
        request.wfile.write(self.data[begin:end])
        if end < len(self.data) and self.stalls:
            time.sleep(2)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("ARK_CACHE", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(prepare, "MEMBER_TOKENS", COUNT)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def run(capfd):
    """prepare.py with these words: status, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        code = prepare.main(list(words))
        return code, *capfd.readouterr()

    return run


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_one_member_of_the_archive_is_kept(hub, run, tmp_path):
    code, output, errors = run("tinystories")
    assert code == 0 and hashlib.sha256(GOOD).hexdigest() in errors
    assert (tmp_path / "ane" / "tinystories_data00.bin").read_bytes() == TOKENS
    assert (
        f"tokens:           {COUNT}\n" in output and f"sha256:           {hashlib.sha256(TOKENS).hexdigest()}" in output
    )
    assert files(tmp_path) == {"tinystories_data00.bin"}, "neither the archive nor what else was in it"
    hub.log.clear()
    assert run("tinystories")[:2] == (0, output) and not hub.log


def test_a_cut_download_goes_on_where_it_stopped(hub, run):
    hub.cuts = 2
    assert run("tinystories")[0] == 0
    ranges = [wanted for path, wanted in hub.log if path == "/file"]
    assert ranges[0] is None and len(ranges) == 3
    assert ranges[1] == f"bytes={len(GOOD) // 2}-"


STALLED = """
import sys, download, prepare
download.PAUSE_SECONDS, download.TIMEOUT_SECONDS, prepare.MEMBER_TOKENS = 0, 0.3, int(sys.argv[1])
sys.exit(prepare.main(["tinystories"]))
"""


@pytest.mark.parametrize("old", [False, True], ids=["this_python", "python3.9"])
def test_a_download_that_stalls_goes_on_where_it_stopped(hub, old, request):
    """In Python 3.9 its error is another one."""
    hub.stalls = True
    hub.cuts = 2
    python = request.getfixturevalue("old_python") if old else sys.executable
    done = subprocess.run([python, "-c", STALLED, str(COUNT)], cwd=EXAMPLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [begins is not None for path, begins in hub.log if path != PATH] == [False, True, True]


def test_a_server_that_cannot_prove_who_it_is(hub, run, tmp_path, monkeypatch):
    """python.org's Python on a Mac knows no authority before it is told: no use in trying again."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", *files],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    accept, tries = hub.server.get_request, []

    def secured():
        tries.append(1)
        connection, address = accept()
        return context.wrap_socket(connection, server_side=True), address

    monkeypatch.setattr(hub.server, "get_request", secured)
    monkeypatch.setenv("HF_ENDPOINT", hub.address.replace("http:", "https:"))
    code, output, errors = run("tinystories")
    assert (code, output) == (1, "") and "cannot prove who it is to this Python (self" in errors
    assert "hint: export SSL_CERT_FILE=" in errors and len(tries) == 1 and hub.log == []


def test_the_next_command_goes_on(hub, run, tmp_path):
    part = tmp_path / "ane" / "TinyStories_tok32000.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(GOOD[:1000])
    assert run("tinystories")[0] == 0 and hub.log[-1][1] == "bytes=1000-"


def test_a_part_that_was_complete_is_not_fetched_again(hub, run, tmp_path):
    part = tmp_path / "ane" / "TinyStories_tok32000.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(GOOD)
    assert run("tinystories")[0] == 0 and hub.log[-1][1] == f"bytes={len(GOOD)}-"


@pytest.mark.parametrize("wrong", [b"\0" * 1000, GOOD + b"more"], ids=["other bytes", "too long"])
def test_a_part_of_something_else_is_fetched_anew(hub, run, tmp_path, wrong):
    part = tmp_path / "ane" / "TinyStories_tok32000.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(wrong)
    assert run("tinystories")[0] == 0 and hub.log[-1][1] is None


def test_a_server_without_ranges(hub, run):
    hub.cuts, hub.ranges = 1, False
    assert run("tinystories")[0] == 0


def refused(result: tuple[int, str, str], sentence: str, hint: str, folder: Path, left: set[str] = frozenset()) -> None:
    code, output, errors = result
    assert code == 1 and output == "" and "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith(("notice:", "TinyStories_tok"))]
    assert len(lines) == 2 and re.match(f"prepare.py: .*{sentence}", lines[0]) and re.match(f"hint: .*{hint}", lines[1])
    assert files(folder) == set(left)


def test_another_hash_than_the_hub_states(hub, run, tmp_path):
    hub.states = "0" * 64
    refused(run("tinystories"), "its SHA-256 is [0-9a-f]{64}, not 0{64}", "mirror", tmp_path)


def test_another_hash_than_the_pinned_one(hub, run, tmp_path):
    pinned = "1" * 64
    refused(run("tinystories", "--sha256", pinned), f"not {pinned}", "mirror", tmp_path)
    assert run("tinystories", "--sha256", hashlib.sha256(GOOD).hexdigest())[0] == 0


def test_a_hub_that_states_no_hash_is_told(hub, run):
    hub.states, hub.cuts = "nothing", 1
    code, _, errors = run("tinystories")
    assert code == 0 and f"pin it by --sha256 {hashlib.sha256(GOOD).hexdigest()}" in errors


def test_a_page_in_place_of_the_file(hub, run, tmp_path):
    hub.data = b"<!DOCTYPE html><title>Sorry</title>"
    left = {"TinyStories_tok32000.tar.gz.part"}
    refused(run("tinystories"), "is no gzip file", "goes on", tmp_path, left)
    assert (tmp_path / "ane" / left.pop()).stat().st_size == 0
    hub.data = GOOD
    assert run("tinystories")[0] == 0


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_hub_that_refuses(hub, run, tmp_path, status):
    hub.status = status
    refused(run("tinystories"), f"HTTP {status}", "HF_ENDPOINT", tmp_path)
    assert len(hub.log) == (download.ATTEMPTS if status == 500 else 1)


def test_no_hub_at_all(hub, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused(run("tinystories"), "in 5 attempts: .*refused", "mirror", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    refused(run("tinystories"), "HF_ENDPOINT is 'file:///etc', and no address", "export", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(run("tinystories"), "HF_HUB_OFFLINE is set", "unset", tmp_path)


WRONG = {
    "no member": ([("data01.bin", tarfile.REGTYPE, TOKENS)], "holds no plain file data00.bin"),
    "link": ([("data00.bin", tarfile.SYMTYPE, b"/etc/passwd")], "holds no plain file data00.bin"),
    "too long": ([("data00.bin", tarfile.REGTYPE, TOKENS + b"\1\0")], "has 1040002 bytes, and 1040000 are the most"),
    "too short": ([("data00.bin", tarfile.REGTYPE, TOKENS[:-2])], "has 519,999 tokens, not 520,000"),
    "odd": ([("data00.bin", tarfile.REGTYPE, TOKENS[:-1])], "has 1039999 bytes, and tokens are two bytes each"),
    "another vocabulary": ([("data00.bin", tarfile.REGTYPE, TOKENS[:-2] + b"\0\x7d")], "token 519999 is 32000"),
    "no story": ([("data00.bin", tarfile.REGTYPE, b"\2\0" + TOKENS[2:])], "begins with token 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_archive_with_something_else(hub, run, tmp_path, name):
    members, sentence = WRONG[name]
    hub.data = archive(*members)
    code, output, errors = run("tinystories")
    assert code == 1 and output == "" and re.search(f"prepare.py: .*{re.escape(sentence)}.*\nhint: ", errors)
    assert "tinystories_data00.bin" not in files(tmp_path)


def test_an_archive_that_is_cut_inside(hub, run, tmp_path):
    hub.data = GOOD[: len(GOOD) // 3]
    refused(run("tinystories"), "is no whole tar.gz archive", "anew", tmp_path)


# ----------------------------------------------------------------------------------------------------------------------
# Made-up stories


def test_the_default_file(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ARK_CACHE", str(tmp_path))
    code, output, _ = run("synthetic")
    values = dict(re.findall("^([a-z0-9_]+): +(.*)$", output, re.MULTILINE))
    assert code == 0 and (values["tokens"], values["ids"]) == ("1000000", "512")
    assert values["sha256"] == "6af38c17cd3c08e733a53c179d034a2a16ec6c22b4c7f8f3e482d889251c50f5", "on every machine"
    assert 1.8 < float(values["validation_floor"]) < 2 and 1.8 < float(values["holdout_floor"]) < 2
    ids = np.fromfile(tmp_path / "ane" / "synthetic.bin", "<u2")
    assert (ids.min(), ids.max(), ids[0]) == (0, 31999, 1) and len(ids) // 20 > prepare.EVALUATED


def test_another_file_is_not_replaced_unasked(run, tmp_path):
    path = tmp_path / "tokens.bin"
    words = ["synthetic", "--tokens", str(prepare.LEAST_TOKENS), "--out", str(path)]
    output = run(*words)[1]
    before = path.stat().st_mtime_ns
    assert run(*words)[:2] == (0, output) and path.stat().st_mtime_ns == before, "it is there already"
    code, _, errors = run(*words, "--seed", "1")
    assert code == 1 and "is there already, and is another file\nhint: --force" in errors
    assert run(*words, "--seed", "1", "--force")[0] == 0 and path.stat().st_mtime_ns != before


def model_of(text: list[int]) -> list[float]:
    """The information of each token by a reader that knows the rules alone, and learns names, words and followers."""
    names = {text[i + 1] for i in range(len(text) - 1) if text[i] == 1}
    followers: dict[int, Counter] = {}
    word = name = 0
    states = []
    for i, token in enumerate(text):
        if token == 1:
            states.append("end")
            word = -1
        elif text[i - 1] == 1:
            states.append("first")
            name = token
        elif token in names:
            states.append("name" if token == name else "WRONG")
        else:
            states.append((word, token))
            followers.setdefault(word, Counter())[token] += 1
            word = token
    assert "WRONG" not in states, "only the story's own name comes back"
    ends, named = states.count("end"), states.count("name")
    free = len(text) - states.count("first")
    follow = 1 - (ends + named) / free
    nats = {"end": -math.log(ends / free), "name": -math.log(named / free), "first": math.log(len(names))}
    found = []
    for state in states:
        if isinstance(state, str):
            found.append(nats[state])
        else:
            counts = followers[state[0]]
            found.append(-math.log(follow * counts[state[1]] / counts.total()))
    return found


def test_the_entropy_is_the_generators():
    """A model with the right structure, fitted to the text by counting, comes to the same number from below."""
    text, nats = stories.write_stories(200_000, 64, 3)
    fitted = model_of(text.tolist())
    assert len(nats) == len(text) == 200_000
    assert math.fsum(fitted) / len(text) == pytest.approx(math.fsum(nats) / len(text), abs=2e-3)
    assert math.fsum(fitted) <= math.fsum(nats) + 10, "fitted to this text, no worse than the truth"


def test_probabilities_are_whole_and_complete():
    assert stories.END + stories.NAME + sum(stories._weights()) == stories.ONE
    assert stories._weights() == sorted(stories._weights(), reverse=True) and stories._weights()[-1] > 0


def test_a_shorter_file_is_the_beginning_of_a_longer_one():
    short, long = stories.write_stories(1000, 32, 1), stories.write_stories(2000, 32, 1)
    assert short[0] == long[0][:1000] and short[1] == long[1][:1000]
    assert stories.write_stories(1000, 32, 2)[0] != short[0]


@pytest.mark.parametrize("ids", [16, 1000])
def test_all_ids_occur_where_the_text_is_long_enough(ids):
    text, _ = stories.write_stories(ids * 100, ids, 0)
    assert len(set(text)) == ids and max(text) == 31999 and min(text) == 0


WORDS = {
    "few tokens": (["synthetic", "--tokens", "512039"], "'512039' is no whole number from 512040"),
    "few ids": (["synthetic", "--ids", "15"], "'15' is no whole number from 16"),
    "no verb": ([], "required: VERB"),
    "other verb": (["stories"], "invalid choice: 'stories'"),
    "hash": (["verify", "x", "--sha256", "12"], "'12' is no SHA-256"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_command_line_that_is_wrong(run, name):
    words, sentence = WORDS[name]
    code, output, errors = run(*words)
    assert code == 2 and output == "" and sentence in errors and "--help" in errors


def test_verify(run, tmp_path):
    path = tmp_path / "tokens.bin"
    path.write_bytes(TOKENS)
    digest = hashlib.sha256(TOKENS).hexdigest()
    code, output, _ = run("verify", str(path), "--sha256", digest.upper())
    assert code == 0 and f"sha256:           {digest}" in output
    code, _, errors = run("verify", str(path), "--sha256", "0" * 64)
    assert code == 1 and f"has the SHA-256 {digest}, not" in errors
    path.write_bytes(TOKENS[:100])
    assert "has 50 tokens, and 512,040 are the least" in run("verify", str(path))[2]
    path.unlink()
    assert "cannot be read: No such file" in run("verify", str(path))[2]
    assert "is no plain file" in run("verify", "/dev/zero")[2]


def test_a_folder_that_cannot_be_written(run):
    code, _, errors = run("synthetic", "--out", "/proc/nowhere/tokens.bin")
    assert code == 1 and "Traceback" not in errors and re.match("prepare.py: /proc/nowhere: .*\nhint: --out", errors)


def test_splits_are_those_of_the_trainer():
    for count in (512_040, 1_000_003, 20_658_981):
        splits = prepare.splits(count)
        assert splits["validation"] == (count // 10 * 9 + count % 10 * 9 // 10, splits["holdout"][0])
        assert splits["holdout"] == (count // 20 * 19 + count % 20 * 19 // 20, count)
        assert all(end - begin > prepare.EVALUATED for begin, end in splits.values())
