"""`ark desk`, what may be called on one, and one that another process takes up.   pytest tests/serve/test_by_hand.py"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_kit.cli import main
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import Proposal
from autoresearch_kit.lab.cache import cache_root
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Change, NoAttempt, Run
from autoresearch_kit.serve.place import place_of
from autoresearch_kit.serve.verbs import VERBS
from tests.engine.conftest import Tiny
from tests.serve.conftest import OnDesk

READS = ("status", "status --json", "log", "log --tsv", "log --replay first_better", "show 0", "note", "note idea")


# The ticket, and what it is good for


@pytest.mark.slow
def test_git_never_starts_on_a_desk(desk: OnDesk, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    config = desk.folder / ".git/config"
    config.write_text(config.read_text() + f'\tfsmonitor = "touch {mark};:"\n')
    subprocess.run(["git", "status"], cwd=desk.folder, capture_output=True, check=False)
    assert mark.exists(), "the trap works"
    mark.unlink()
    for words in READS:
        done = desk.ark(*words.split())
        assert done.returncode == 0, (words, done.stderr)
    desk.answer(12)
    assert desk.try_()["outcome"] == "keep"
    for words in (["run"], ["init"], ["check"], ["desk"], ["clean"]):
        assert desk.ark(*words).returncode == 2
    assert not mark.exists()


@pytest.mark.slow
def test_the_reads_on_a_desk_are_of_its_own_run(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    first = lay("first")
    first.answer(12)
    first.try_("-m", "twelve")
    lay("second")
    assert json.loads(first.ark("status", "--json").stdout)["tag"] == "first"
    assert "twelve" in first.ark("log").stdout and "twelve" in first.ark("show", "1").stdout
    assert json.loads(first.ark("status", "--tag", "second", "--json").stdout)["attempts"] == 0
    assert json.loads(tiny.ark_here("status", str(first.folder), "--json").stdout)["tag"] == "first"
    assert json.loads(tiny.ark_here("status", "--json").stdout)["tag"] == "second"


@pytest.mark.parametrize("verb", sorted(set(main.commands) - {verb.name for verb in VERBS} - {"mcp"}))
def test_every_other_verb_is_refused_on_a_desk_and_elsewhere_in_the_cache(tiny: Tiny, desk: OnDesk, verb: str) -> None:
    before = sorted(path.name for path in desk.folder.iterdir())
    agent = {"install": ["claude"], "push": ["origin"], "fetch": ["origin"]}.get(verb, [])
    folders = [desk.folder, desk.folder / "notes", desk.cache / "bench", desk.cache]
    for folder in folders if verb != "compare" else folders[:1]:  # to it, another folder is a log to be read
        done = tiny.ark_here(verb, *agent, str(folder))
        assert done.returncode == 2 and "is a throwaway copy of ark's" in done.stderr, done.stderr
    assert f"the project is in {tiny.folder}" in tiny.ark_here(verb, *agent, str(desk.folder)).stderr
    assert sorted(path.name for path in desk.folder.iterdir()) == before


@pytest.mark.slow
def test_a_desk_without_its_ticket_is_no_desk(tiny: Tiny, desk: OnDesk) -> None:
    (desk.cache / "desk.json").unlink()
    for words in (["try"], ["wait"], ["status"], ["log"]):
        done = desk.ark(*words)
        assert done.returncode == 2 and "whose ticket is gone" in done.stderr and "ark desk" in done.stderr
    with pytest.raises(UsageError, match="no desk"):
        place_of(desk.cache / "bench")


def test_a_desk_that_is_gone_is_found_again(tiny: Tiny, desk: OnDesk) -> None:
    shell = f"cd {shlex.quote(str(desk.folder))} && rm -rf ../desk && {shlex.join(tiny.command)} status"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 1 and f'cd "$(ark desk {tiny.folder} --tag t)"' in done.stderr


def test_try_and_wait_need_a_desk(tiny: Tiny) -> None:
    for verb in ("try", "wait"):
        done = tiny.ark_here(verb)
        assert done.returncode == 2 and "is no desk" in done.stderr and 'cd "$(ark desk)"' in done.stderr


# ark desk


@pytest.mark.slow
def test_a_desk_is_laid_and_its_folder_alone_printed(tiny: Tiny) -> None:
    done = tiny.ark("desk", "--tag", "t")
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(cache_root()) and (folder / "train.sh").is_file()
    assert "program.md" in done.stderr and "keep" in done.stderr, "the baseline was measured"
    assert tiny.ark("desk", "--tag", "t").stdout == done.stdout
    assert len(tiny.log()) == 1


@pytest.mark.slow
def test_what_was_not_measured_is_not_thrown_away(tiny: Tiny, desk: OnDesk) -> None:
    desk.answer(12)
    done = tiny.ark_here("desk", "--tag", "t")
    assert done.returncode == 0 and done.stdout.strip() == str(desk.folder)
    assert "Not measured yet: train.sh" in done.stderr and "--anew" in done.stderr
    assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n"
    (desk.folder / "train.sh").unlink()
    (desk.folder / "train.sh").symlink_to("x")
    assert "is a symbolic link" in tiny.ark_here("desk", "--tag", "t").stderr
    inode = desk.folder.stat().st_ino
    assert tiny.ark_here("desk", "--tag", "t", "--anew").returncode == 0
    assert (desk.folder / "train.sh").read_text() == "echo 10 > answer.txt\n"
    assert desk.folder.stat().st_ino == inode, "somebody works there"
    desk.answer(9)
    assert desk.try_()["outcome"] == "discard"
    desk.answer(9)
    assert tiny.ark_here("desk", "--tag", "t").stderr.count("note:") == 0, "it was measured"


@pytest.mark.slow
def test_a_clean_right_after_a_try(tiny: Tiny, desk: OnDesk) -> None:
    """The process that measured has ended when `dismiss` returns."""
    desk.answer(12)
    desk.try_("-m", "twelve")
    done = tiny.ark_here("clean")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_and_a_clean_do_not_throw_away_what_somebody_has_not_measured(tiny: Tiny, desk: OnDesk) -> None:
    agent = tiny.agent("answer 13\n")
    run = ("run", "--tag", "t", "--agent", agent, "--attempts", "1")
    desk.answer(12)
    for words in (run, ("clean",)):
        done = tiny.ark_here(*words)
        assert done.returncode == 1 and "never measured: train.sh" in done.stderr, done.stderr
        assert "--tag t --anew" in done.stderr and str(desk.folder) in done.stderr
    assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n" and len(desk.log()) == 1
    assert desk.try_()["outcome"] == "keep"
    assert tiny.ark_here(*run).returncode == 0, "nothing would be lost"
    (desk.folder / "train.sh").write_text("echo half a turn\n")  # as an agent leaves it that was killed in its turn
    assert tiny.ark_here("run", "--tag", "t", "--agent", "true", "--attempts", "0").returncode == 0
    assert "Not measured yet: train.sh" in tiny.ark_here("desk", "--tag", "t").stderr, "from now on it is somebody's"
    assert tiny.ark_here("clean").returncode == 1
    assert tiny.ark_here("desk", "--tag", "t", "--anew").returncode == 0
    assert tiny.ark_here("clean").returncode == 0 and not desk.folder.exists()


@pytest.mark.slow
def test_a_desk_in_use_is_left_alone(tiny: Tiny, desk: OnDesk) -> None:
    gate = desk.hold()
    desk.try_("--detach")
    done = tiny.ark_here("desk", "--tag", "t")
    assert done.returncode == 0 and done.stdout.strip() == str(desk.folder) and "attempt 1" in done.stderr
    gate.touch()
    assert desk.wait()["value"] == 20


@pytest.mark.slow
def test_a_desk_in_a_sub_folder(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.git("mv", "train.sh", "evaluate.sh", "autoresearch-config.yaml", "notes")
    tiny.git("commit", "-qm", "deeper")
    tiny.folder = tiny.root / "notes"
    desk = lay()
    assert desk.folder.name == "notes" and desk.folder.parent.name == "desk"
    desk.answer(12)
    assert desk.try_()["outcome"] == "keep"
    assert json.loads(desk.ark("status", "--json").stdout)["best"] == 12
    assert tiny.show("autoresearch/t", "notes/train.sh") == "echo 12 > answer.txt"


@pytest.mark.slow
def test_a_folder_with_odd_characters(tiny: Tiny, tmp_path: Path, lay: Callable[..., OnDesk]) -> None:
    odd = tmp_path / "a b'\"$x ü"
    tiny.root.rename(odd)
    tiny.root = tiny.folder = odd
    desk = lay()
    desk.answer(12)
    assert desk.try_()["outcome"] == "keep"
    shell = f'cd "$({shlex.join(tiny.command)} desk --tag t)" && pwd'
    done = subprocess.run(["sh", "-c", shell], cwd=odd, capture_output=True, text=True)
    assert done.stdout.strip() == str(desk.folder)


# Taken up by another process


def taken_up(tiny: Tiny, tag: str = "t") -> Change | NoAttempt:
    """What a process that did not lay the desk finds on it."""
    project = open_project(tiny.folder)
    try:
        with Run(project, tag) as run:
            run.open()
            run.ready()
            assert run.take_up_desk()
            return run.change()
    finally:
        project.repository.close()


def kind(found: Change | NoAttempt) -> str:
    return found.kind if isinstance(found, NoAttempt) else ",".join(found.paths)


@pytest.mark.parametrize("attribute", ["text eol=crlf", "filter=shout"])
def test_files_that_filters_change_are_no_changes(tiny: Tiny, lay: Callable[..., OnDesk], attribute: str) -> None:
    tiny.git("config", "filter.shout.smudge", "tr a-z A-Z")
    tiny.git("config", "filter.shout.clean", "tr A-Z a-z")
    tiny.write(".gitattributes", f"words.txt {attribute}\n")
    tiny.write("words.txt", "one\ntwo\n")
    tiny.commit(mutable_files=["train.sh", "words.txt"])
    desk = lay()
    laid = (desk.folder / "words.txt").read_bytes()
    assert laid != b"one\ntwo\n", "the filter is at work"
    assert kind(taken_up(tiny)) == "no_change"
    (desk.folder / "words.txt").write_bytes(laid)
    assert kind(taken_up(tiny)) == "no_change", "written anew, and the same"
    desk.answer(12)
    assert kind(taken_up(tiny)) == "train.sh"


def test_every_sort_of_change_is_seen(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.write("extra/one.txt", "1\n")
    tiny.write("extra/run.sh", "#!/bin/sh\n").chmod(0o755)
    tiny.commit(mutable_files=["train.sh", "extra/**"])
    desk = lay()
    assert kind(taken_up(tiny)) == "no_change"
    (desk.folder / "extra/run.sh").chmod(0o644)
    assert kind(taken_up(tiny)) == "extra/run.sh"
    (desk.folder / "extra/run.sh").chmod(0o755)
    (desk.folder / "extra/one.txt").unlink()
    desk.write("2\n", "extra/deep/two.txt")
    desk.write("no part of it\n", "notes/read me.txt")
    found = taken_up(tiny)
    assert kind(found) == "extra/deep/two.txt,extra/one.txt"
    assert isinstance(found, Change)
    listing = tiny.git("ls-tree", "-r", "--name-only", found.tree)
    assert "extra/deep/two.txt" in listing and "extra/one.txt" not in listing


@pytest.mark.slow
def test_a_desk_that_lies_on_an_older_head_is_merged(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.write("train.sh", "a=1\nb=1\nc=1\necho $((a + b + c)) > answer.txt\n")
    tiny.commit()
    desk = lay()
    text = (desk.folder / "train.sh").read_text()
    project = open_project(tiny.folder)
    try:
        with Run(project, "t") as run:  # keeps something without the desk
            run.open()
            run.ready()
            files = run.project.repository.files(run.head.commit)
            oid = project.repository.store_blob(text.replace("a=1", "a=5").encode())
            entry = type(files["train.sh"])(files["train.sh"].mode, oid)
            tree = project.repository.store_tree(run.head.commit, {"train.sh": entry})
            run.attempt(Proposal("elsewhere"), Change(tree, {**files, "train.sh": entry}, ("train.sh",)))
    finally:
        project.repository.close()
    assert kind(taken_up(tiny)) == "no_change"
    desk.write(text.replace("c=1", "c=5"))
    found = desk.try_("-m", "here")
    assert (found["outcome"], found["value"]) == ("keep", 11)
    assert "a=5" in (desk.folder / "train.sh").read_text() and "c=5" in (desk.folder / "train.sh").read_text()


@pytest.mark.slow
def test_a_ticket_of_nonsense_is_none(tiny: Tiny, desk: OnDesk) -> None:
    ticket = json.loads((desk.cache / "desk.json").read_text())
    desk.answer(12)
    (desk.cache / "desk.json").write_text(json.dumps({**ticket, "laid": "0" * 40}))
    found = desk.try_(code=1)
    assert found["outcome"] == "no_change", "what it was laid from is unknown, so it was laid anew"
    for text in ("", "[]", "{}", '{"spec": "x"}', "[" * 100_000):
        (desk.cache / "desk.json").write_text(text)
        assert "whose ticket is gone" in desk.ark("try").stderr


# The verbs, said once


def test_the_command_line_has_every_verb_with_its_parameters() -> None:
    assert [verb.name for verb in VERBS] == ["try", "wait", "status", "log", "show", "note"]
    for verb in VERBS:
        command = main.commands[verb.name]
        assert command.help == verb.summary
        options = [option for parameter in command.params for option in parameter.opts]
        for parameter in verb.parameters:
            assert parameter.description.endswith(".")
            assert all(flag in options for flag in parameter.flags)
            assert parameter.flags or parameter.name in options
