"""Pinned inputs: made by the set-up command, found below $ARK_CACHE, and watched while runs go on.

pytest tests/engine/test_inputs.py
"""

from __future__ import annotations

import hashlib
import os

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.spec import Input
from autoresearch_kit.lab.inputs import Inputs

SHA = hashlib.sha256(b"data").hexdigest()


def pinned(path: str, sha256: str = SHA) -> list[dict[str, str]]:
    return [{"path": path, "sha256": sha256}]


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = tmp_path / "big disk"
    monkeypatch.setenv("ARK_CACHE", str(folder))
    return folder


def test_the_set_up_command_may_make_them_below_the_folder_for_data(tiny, data):
    make = 'mkdir -p "$ARK_CACHE/mine" && printf data > "$ARK_CACHE/mine/train.bin"'
    use = 'test "$(cat "$ARK_CACHE/mine/train.bin")" = data && echo 10 > answer.txt'
    tiny.write("train.sh", use)
    tiny.commit(setup_command=make, inputs=pinned("$ARK_CACHE/mine/train.bin"))
    checked = tiny.ark_here("check")
    assert "not there yet; `setup_command` comes first" in checked.stdout + checked.stderr
    assert tiny.ark_here("run", "--attempts", "1", "--agent", tiny.agent("answer 11")).returncode == 0
    assert (data / "mine" / "train.bin").read_text() == "data"
    (data / "mine" / "train.bin").unlink()  # the stamp of the set-up is there, but its work is not
    assert tiny.ark_here("run", "--attempts", "1", "--agent", tiny.agent("answer 12")).returncode == 0
    assert (data / "mine" / "train.bin").read_text() == "data"


def test_a_set_up_that_makes_something_else_is_not_taken(tiny, data):
    make = 'mkdir -p "$ARK_CACHE" && printf other > "$ARK_CACHE/train.bin"'
    tiny.commit(setup_command=make, inputs=pinned("$ARK_CACHE/train.bin"))
    done = tiny.ark_here("run", "--attempts", "1", "--agent", tiny.agent("answer 11"))
    assert done.returncode == 1
    assert "input $ARK_CACHE/train.bin is not the pinned one" in done.stderr


def test_a_run_that_changes_an_input_ends_the_night_and_decides_nothing(tiny, data):
    data.mkdir()
    target = data / "train.bin"
    target.write_bytes(b"data")
    tiny.commit(inputs=pinned("$ARK_CACHE/train.bin"))
    spoil = """printf 'printf atad > "$ARK_CACHE/train.bin"\\necho 99 > answer.txt\\n' > train.sh"""
    with pytest.raises(ArkError, match=r"train\.bin is not the pinned one"):
        tiny.play(spoil, attempts=2)
    target.write_bytes(b"data")
    again = tiny.play("answer 11", attempts=0)
    assert [attempt.outcome for attempt in again.attempts if attempt.value == 99] != ["keep"]


def test_only_what_looks_different_is_read_again(tmp_path):
    target = tmp_path / "train.bin"
    target.write_bytes(b"data")
    inputs = Inputs(tmp_path, [Input(path="train.bin", sha256=SHA)])
    inputs.check()
    looks = target.stat()
    target.write_bytes(b"atad")
    os.utime(target, ns=(looks.st_atime_ns, looks.st_mtime_ns))  # the other time stamp cannot be put back
    with pytest.raises(ArkError, match="not the pinned one"):
        inputs.check()
    target.write_bytes(b"data")
    inputs.check()
    assert inputs.missing() == []
    target.unlink()
    assert inputs.missing() == ["train.bin"]
    with pytest.raises(ArkError, match="cannot be read"):
        inputs.check()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("~nobody-of-this-name/x", "the folder for data cannot be found"),
        ("data", "inside the repository"),
        ("/etc/passwd", "which is no folder"),
    ],
)
def test_a_folder_for_data_that_is_none_is_a_sentence(tiny, monkeypatch, where, says):
    monkeypatch.chdir(tiny.folder)
    monkeypatch.setenv("ARK_CACHE", where)
    tiny.commit(inputs=pinned("$ARK_CACHE/train.bin"))
    done = tiny.ark_here("check")
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_list_of_inputs_is_asked_about(tiny):
    tiny.commit(inputs=[])
    assert "nothing outside git is pinned" in tiny.ark_here("check").stdout
    tiny.commit(inputs=None)
    assert "pinned" not in tiny.ark_here("check").stdout


def test_the_last_words_of_an_evaluation_that_gives_no_number_are_in_the_record(tiny):
    words = "echo evaluate: the model sees the future >&2; echo hint: do not >&2; exit 1"
    tiny.write("evaluate.sh", f"grep -q 13 answer.txt && {{ {words}; }}; echo score: $(cat answer.txt)\n")
    tiny.commit()
    assert tiny.play("answer 13", attempts=1).last.problem.endswith(": evaluate: the model sees the future")
