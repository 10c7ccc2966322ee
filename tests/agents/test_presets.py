"""The rows of the table, what they make of transcripts, and how long a limit lasts.

.venv/bin/pytest tests/agents/test_presets.py
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.agents.presets import PRESETS
from autoresearch_kit.agents.refusals import is_login, is_rate_limit, rest_seconds
from autoresearch_kit.agents.transcript import MAX_LINE_BYTES, MAX_LINES, MAX_NUMBER, Transcript, lines_of
from autoresearch_kit.core.names import AGENTS, MODEL_FREE
from autoresearch_kit.core.spec import Agent

HERE = Path(__file__).parent / "stand_ins"
GIT = ["git diff", "git log", "git show", "git status"]


def each(form: str) -> str:
    return ",".join(form.format(command) for command in ["ark", *GIT])


ARGV = {
    "claude": [
        *["claude", "-p", "--output-format", "stream-json", "--verbose", "--permission-mode", "acceptEdits"],
        *["--allowedTools", each("Bash({}:*)")],
    ],
    "codex": ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write", "-"],
    "gemini": [
        *["gemini", "--output-format", "stream-json", "--approval-mode=auto_edit"],
        f"--allowed-tools={each('run_shell_command({})')}",
    ],
    "opencode": ["opencode", "run", "--format", "json"],
    "aider": [
        *["aider", "--message-file", "/p", "--read", "program.md", "--no-auto-commits", "--no-dirty-commits"],
        *["--no-gitignore", "--no-check-update", "--no-show-release-notes", "--no-analytics", "--no-pretty"],
        *["--no-stream", "--no-fancy-input", "--no-suggest-shell-commands", "--no-detect-urls"],
        *["--chat-history-file", "/dev/null", "--input-history-file", "/dev/null", "--yes-always"],
        *["--file=a.py", "--file=b c.py"],
    ],
    "copilot": [
        *["copilot", "--output-format=json", "--no-ask-user"],
        "--allow-tool=write,shell(ark:*)," + ",".join(f"shell({command})" for command in GIT),
    ],
    "pi": ["pi", "--mode", "json", "--tools", "read,edit,write,grep,find,ls"],
}


def argv(name: str, session: str = "", **fields: Any) -> list[str]:
    return PRESETS[name].argv(Agent(name=name, **fields), "/p", ["a.py", "b c.py"], session)


def test_table_and_names_agree() -> None:
    assert set(PRESETS) == set(AGENTS) - set(MODEL_FREE)


@pytest.mark.parametrize("name", PRESETS)
def test_command_lines(name: str) -> None:
    assert argv(name) == ARGV[name]
    assert PRESETS[name].program == name


def test_model_arguments_and_session_are_put_in() -> None:
    assert argv("claude", "s-1", model="opus", arguments=["--max-turns", "9"])[-6:] == [
        *["--model", "opus", "--max-turns", "9", "--resume", "s-1"]
    ]
    assert argv("codex", "s-1", model="gpt-5")[-5:] == ["--model", "gpt-5", "resume", "s-1", "-"]
    assert argv("copilot", "s-1")[-1] == "--resume=s-1"
    assert argv("pi", "s-1")[-2:] == ["--session", "s-1"]
    assert argv("opencode", "s-1")[-2:] == ["--session", "s-1"]
    assert "s-1" not in argv("aider", "s-1")
    assert argv("gemini", arguments=["{prompt}", "{session}"])[-2:] == ["{prompt}", "{session}"], "the user's own words"


def test_an_option_in_arguments_takes_the_place_of_the_rows() -> None:
    words = argv("claude", arguments=["--allowedTools", "Bash"])
    assert words.count("--allowedTools") == 1 and "acceptEdits" in words
    assert "acceptEdits" not in argv("claude", arguments=["--dangerously-skip-permissions"])
    assert argv("codex", arguments=["--sandbox=danger-full-access"]).count("workspace-write") == 0
    assert "--approval-mode=auto_edit" not in argv("gemini", arguments=["--approval-mode=yolo"])
    assert not [word for word in argv("gemini", arguments=["-y"]) if "auto_edit" in word or "allowed-tools" in word]
    assert "read,edit,write,grep,find,ls" not in argv("pi", arguments=["--tools", "read"])


def test_what_drives_may_run_commands() -> None:
    assert "bash" in argv("pi", drive="agent")[4]
    assert "bash" not in argv("pi")[4]
    assert argv("claude", drive="agent") == argv("claude")
    assert PRESETS["aider"].drives is None


def test_opencode_asks_before_any_other_command() -> None:
    rules = json.loads(PRESETS["opencode"].environment["OPENCODE_PERMISSION"])
    assert next(iter(rules["bash"].items())) == ("*", "ask"), "the last rule that matches wins"
    assert rules["bash"]["ark *"] == rules["bash"]["git log *"] == "allow"


# What transcripts say: tokens, money, session, message, denied, errors

NOTHING: tuple[Any, ...] = (None, None, "", "", [], [])
SAYS = "Raise the answer\n\nIt was too low."
READ = {
    "claude/success": (23000, 0.0125, "6c1f6a0e-58b0-4a1c-9c4f-5a2f6a1b7d10", f"**{SAYS[:16]}**{SAYS[16:]}", [], []),
    "codex/success": (24885, None, "0199a213-81c0-7800-8aa1-bbab2a035a53", SAYS, [], []),
    "gemini/success": (15420, None, "b7e4a0f2-0c3d-4b52-93bb-6c2a1a3c5d77", SAYS, [], []),
    "opencode/success": (1000, 0.0035, "ses_fc7d2c1daffeoHDeorpPDSsbrN", SAYS, [], []),
    "aider/success": (2410, 0.01, "", f"{SAYS}\n\ntrain.sh", [], []),
    "copilot/success": (None, None, "ea7c2b1d-6a52-4f0e-8f61-0d1b8d1c9e20", SAYS, [], []),
    "pi/success": (2000, 0.003, "0199b0aa-3c1e-7d52-9f10-7a5b1c2d3e4f", SAYS, [], []),
}


def transcript(name: str) -> Transcript:
    path = next(HERE.glob(f"{name}.*"))
    return PRESETS[path.parent.name].read(lines_of(path))


@pytest.mark.parametrize("name", READ)
def test_what_a_good_turn_says(name: str) -> None:
    found = transcript(name)
    tokens, money, *rest = READ[name]
    assert (found.tokens, found.money) == (tokens, pytest.approx(money) if money else None)
    assert [found.session, found.message, found.denied, found.errors] == rest
    row = PRESETS[name.partition("/")[0]]
    assert row.reports == tuple(what for what, told in (("tokens", tokens), ("money", money)) if told is not None)


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        ("claude", ["Bash(python sweep.py)", "WebFetch"]),
        ("codex", ["shell(bash -lc 'pip install torch')"]),
        ("gemini", ["run_shell_command(python sweep.py)"]),
        ("opencode", ["bash(python sweep.py)"]),
        ("copilot", ["bash(python sweep.py)"]),
        ("pi", ["bash"]),
    ],
)
def test_denied_calls_are_told_from_failed_ones(name: str, denied: list[str]) -> None:
    assert transcript(f"{name}/denied").denied == denied


def test_a_turn_that_was_cut_short_has_cost_what_it_used() -> None:
    lines = (HERE / "claude/success.jsonl").read_bytes().splitlines()
    assert PRESETS["claude"].read(lines[:-1]).tokens == 11124 + 11126
    doubled = [line for line in lines[:-1] for _ in range(3)]
    assert PRESETS["claude"].read(doubled).tokens == 11124 + 11126, "one message may be told in several events"


@pytest.mark.parametrize("name", PRESETS)
def test_garbage_says_nothing(name: str) -> None:
    found = PRESETS[name].read(lines_of(HERE / "garbage.txt"))
    assert (found.tokens, found.money, found.session, found.message, found.denied, found.errors) == NOTHING


KEYS = sorted(set(re.findall(r'"(\w+)"', "".join(path.read_text() for path in HERE.glob("*/*.jsonl")))))
KINDS = sorted(set(re.findall(r'^{"type":"([\w.]+)"', "".join(p.read_text() for p in HERE.glob("*/*.jsonl")), re.M)))
ODD = [float("nan"), float("inf"), -1, 10**400, True, "\ud800", "\x1b[31m", "error", "success", "assistant"]
VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
EVENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8).flatmap(
    lambda event: st.sampled_from(KINDS).map(lambda kind: json.dumps({**event, "type": kind}).encode())
)


@pytest.mark.slow
@given(lines=st.lists(st.binary(max_size=80) | EVENTS, max_size=12))
def test_no_bytes_make_a_reader_raise(lines: list[bytes]) -> None:
    for row in PRESETS.values():
        found = row.read(lines)
        assert found.tokens is None or (isinstance(found.tokens, int) and 0 <= found.tokens <= MAX_NUMBER)
        assert found.money is None or 0 <= found.money <= MAX_NUMBER
        assert not found.session.startswith("-")
        texts = [found.message, found.session, *found.denied, *found.errors]
        "".join(texts).encode()  # can be stored
        assert all(line.isprintable() for line in [*found.denied, *found.errors])
        for text in texts:
            assert is_login(text) in (True, False)
            told = rest_seconds(text, datetime.now(UTC))
            assert told is None or told >= 0


@pytest.mark.slow
def test_only_plain_files_are_read_and_long_lines_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert list(lines_of(log)) == []
    log.write_bytes(b"a\n" + b"x" * (2 * MAX_LINE_BYTES) + b"y\nb\nc")
    assert list(lines_of(log)) == [b"a\n", b"b\n", b"c"]
    log.write_bytes(b"first\n" + b"\n" * (MAX_LINES + 2**21) + b"last\n")
    read = [line for line in lines_of(log) if line.strip()]
    assert read == [b"last\n"], "of a flood the end"
    link = tmp_path / "link"
    link.symlink_to(log)
    assert list(lines_of(link)) == []
    assert list(lines_of(tmp_path)) == []


# Limits and logins

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=timezone(timedelta(hours=1)))  # 11:00 in UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("retry-after: 7", 7),
        ('"Retry-After": "120"', 120),
        ("retry_after_ms=1500", 1.5),
        ("Please try again in 20s", 20),
        ("Please try again in 1.5s.", 1.5),
        ("try again in 1 hour 5 minutes", 3900),
        ("or try again in 2 days, 3 hours and 4 minutes", 2 * 86400 + 3 * 3600 + 240),
        ("Your quota will reset after 12h13m10s.", 12 * 3600 + 13 * 60 + 10),
        ('"retryDelay": "34s"', 34),
        ("Please retry in 250ms", 0.25),
        ("wait 5 minutes", 300),
        ("Claude AI usage limit reached|1795208400", 10 * 3600),
        ('"resetsAt":1795176000000', 3600),
        ("Claude AI usage limit reached|1763643600", None),
        ("resets at 2026-11-20T12:30:00.123Z", 5400),
        ("resets 2026-11-20T12:30:00+01:00", 1800),
        ("You've hit your limit · resets 3pm", 3 * 3600),
        ("5-hour limit reached ∙ resets 3pm (UTC)", 4 * 3600),
        ("resets at 7:30am (Europe/Berlin)", 19.5 * 3600),
        ("Try again at 13:15", 4500),
        ("resets 12am", 12 * 3600),
        ("resets 11:50am", 60),
        ("Weekly limit reached, resets Nov 22, 5pm (UTC)", 2 * 86400 + 6 * 3600),
        ("try again at Nov 21st, 2026 12:55 AM.", 12 * 3600 + 55 * 60),
        ("resets Jan 2, 3pm (Mars/Olympus)", None),  # too long,
        ("Rate limit exceeded", None),
        ("try again in 999999999 days", None),
        ("resets 99pm", None),
        ("used 12 of 12 requests, resets 5", None),
        ("", None),
    ],
)
def test_how_long_a_limit_lasts(text: str, seconds: float | None) -> None:
    assert rest_seconds(text, NOON) == (seconds and pytest.approx(seconds))


@given(text=st.text(max_size=200) | st.from_regex(r"(resets|retry|again|in|after)[ \w:.,-]{0,60}"))
def test_no_text_makes_it_raise(text: str) -> None:
    told = rest_seconds(text, NOON)
    assert told is None or 0 <= told <= 32 * 86400


@pytest.mark.parametrize(
    "text",
    [
        "You've hit your limit · resets 3pm (UTC)",
        "You've hit your usage limit. Upgrade to Pro",
        'API Error: 429 {"type":"error","error":{"type":"rate_limit_error","message":"..."}}',
        "You have exhausted your capacity on this model",
        "Resource has been exhausted (e.g. check quota).",
        "529 overloaded",
        "Credit balance is too low",
    ],
)
def test_a_limit_is_no_login(text: str) -> None:
    assert is_rate_limit(text) and not is_login(text)


@pytest.mark.parametrize(
    "text",
    [
        "Not logged in · Please run /login",
        "Invalid API key · Please run /login",
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
        "unexpected status 401 Unauthorized: Missing bearer or basic authentication in header",
        "Please set an Auth method in your settings.json",
        "No API key found for anthropic.",
        "Anthropic API key is missing.",
        "Error: No authentication information found.",
    ],
)
def test_a_login_is_no_limit(text: str) -> None:
    assert is_login(text) and not is_rate_limit(text)


def test_other_errors_are_neither() -> None:
    for text in ["Prompt is too long", "segmentation fault", "No such file: api.py", "loaded cached credentials", ""]:
        assert not is_login(text) and not is_rate_limit(text), text
