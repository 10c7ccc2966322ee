"""The recipes of the guide, as they stand there, against servers of this machine: what arrives is data.

.venv/bin/pytest tests/engine/test_notify_recipes.py
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "notify.md"
TITLE = """x"; $(touch pwned) `touch pwned` <!channel> @everyone & <b> 'y' \\n Größe 🚀"""
DOCUMENT = {"event": "best", "subject": "tiny t: attempt 1 was kept", "text": f"{TITLE}\nKept: 20 after 10\n."}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="the recipes need jq and curl"),
]


def recipe(name: str) -> str:
    """The command under a heading of the guide."""
    block = re.search(rf"\*\*{name}\*\*.*?```(\w+)\n(.*?)```", GUIDE.read_text(), re.S)
    assert block is not None, name
    if block[1] != "yaml":
        return block[2]
    return str(next(iter(yaml.safe_load(block[2].replace("on:", "hooks:"))["hooks"].values())))


def call(command: str | list[str], tmp_path: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command,
        input=json.dumps(DOCUMENT).encode() + b"\n",
        shell=isinstance(command, str),
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
    )
    assert not (tmp_path / "pwned").exists()
    return done


@pytest.fixture
def web():
    """A server, and the requests that it got."""
    got: list[tuple[dict[str, str], Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((dict(self.headers), json.loads(body)))
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_ntfy(web, tmp_path):
    address, got = web
    assert call(recipe("ntfy"), tmp_path, NTFY_URL=address, NTFY_TOPIC="mine").returncode == 0
    assert got[0][1] == {"topic": "mine", "title": DOCUMENT["subject"], "message": DOCUMENT["text"]}


def test_slack(web, tmp_path):
    address, got = web
    assert call(recipe("Slack"), tmp_path, SLACK_WEBHOOK_URL=address).returncode == 0
    text = got[0][1]["text"]
    assert "&lt;!channel&gt; @everyone &amp; &lt;b&gt;" in text and "<" not in text
    assert got[0][0]["Content-Type"] == "application/json"


def test_discord(web, tmp_path):
    address, got = web
    assert call(recipe("Discord"), tmp_path, DISCORD_WEBHOOK_URL=address).returncode == 0
    assert got[0][1] == {
        "content": f"{DOCUMENT['subject']}\n{DOCUMENT['text']}", "allowed_mentions": {"parse": []}
    }  # fmt: skip


def test_a_server_that_refuses_is_a_failure(web, tmp_path):
    done = call(recipe("Slack"), tmp_path, SLACK_WEBHOOK_URL=web[0] + "/broken")
    assert done.returncode != 0 and b"500" in done.stderr


def test_the_script_for_all_events(web, tmp_path):
    address, got = web
    script = tmp_path / "tell.sh"
    script.write_text(recipe("One script for all events"))
    script.chmod(0o755)
    for event, priority in (("stop", "high"), ("keep", "default")):
        assert call(["./tell.sh"], tmp_path, NTFY_URL=address, NTFY_TOPIC="mine", ARK_EVENT=event).returncode == 0
        assert got[-1][0]["Priority"] == priority


def test_sendmail(tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sendmail").write_text(f"#!/bin/sh\necho \"$@\" > '{tmp_path}/words'; cat > '{tmp_path}/mail'\n")
    (bin_folder / "sendmail").chmod(0o755)
    path = f"{bin_folder}:{os.environ['PATH']}"
    assert call(recipe("Mail"), tmp_path, PATH=path, MAIL_TO="me@example.org").returncode == 0
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=email.policy.default)
    assert (mail["To"], mail["Subject"]) == ("me@example.org", DOCUMENT["subject"])
    assert mail.get_content().rstrip("\n") == DOCUMENT["text"]
    assert (tmp_path / "words").read_text().split() == ["-oi", "-t"]


def test_smtp(tmp_path):
    got: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                if line.upper().startswith(b"DATA"):
                    self.wfile.write(b"354 go on\r\n")
                    while (part := self.rfile.readline()) != b".\r\n":
                        got.append(part.removeprefix(b".") if part.startswith(b"..") else part)
                self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (tmp_path / "mail.py").write_text(recipe("Mail by SMTP"))
        port = str(server.server_address[1])
        names = {"MAIL_FROM": "ark@example.org", "MAIL_TO": "me@example.org", "SMTP_HOST": "127.0.0.1"}
        done = call([sys.executable, "mail.py"], tmp_path, SMTP_PORT=port, **names)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    mail = email.message_from_bytes(b"".join(got), policy=email.policy.default)
    assert mail["Subject"] == DOCUMENT["subject"]
    assert mail.get_content().replace("\r\n", "\n").rstrip("\n") == DOCUMENT["text"]
