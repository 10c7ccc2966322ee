"""A noisy metric through the whole engine: who is measured when, what is recorded, and what stops it.

.venv/bin/pytest tests/engine/test_noise.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoresearch_kit.core.errors import ArkError, SpecError
from tests.engine.conftest import Tiny

# 10 becomes 10.000 to 10.999, uniformly: a standard deviation of 0.29.
NOISY = 'printf "score: %d.%03d\\n" "$(cat answer.txt)" $((ARK_SEED % 1000))\n'


@pytest.fixture
def noisy(tiny: Tiny) -> Tiny:
    tiny.write("evaluate.sh", NOISY)
    tiny.commit("a noisy evaluation")
    return tiny


def told(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_candidate_and_head_are_measured_in_turn(noisy: Tiny) -> None:
    runs = noisy.tmp / "runs"
    noisy.write("train.sh", f"echo head:$ARK_SEED:$ARK_ATTEMPT >> {runs}\necho 10 > answer.txt\n")
    noisy.commit("tell")
    played = noisy.play(
        f"echo 'echo new:$ARK_SEED:$ARK_ATTEMPT >> {runs}; echo 90 > answer.txt' > train.sh", attempts=1
    )
    baseline, found = played.attempts
    lines = [line.split(":") for line in told(runs)]

    assert [who for who, _, _ in lines[:3]] == ["head"] * 3 and len(baseline.values) == 3
    assert baseline.verdict is not None and baseline.verdict.noise is not None and 0 < baseline.verdict.noise < 0.9
    assert [who for who, _, _ in lines[3:]] == ["new", "head", "head", "new"], "a gain of 250 noises needs no more"
    assert [m.of_head for m in found.measurements] == [False, True, True, False]
    assert [str(m.seed) for m in found.measurements] == [seed for _, seed, _ in lines[3:]]
    assert len({seed for _, seed, _ in lines}) == 7, "fresh for each"
    assert {number for _, _, number in lines[3:]} == {"1"}, "a run cannot see whose turn it is"

    assert played.outcomes == ["keep", "keep"]
    assert found.verdict is not None and found.verdict.gain == pytest.approx(80, abs=1)
    assert " in 4 runs, noise " in found.verdict.reason
    entry = noisy.log()[-1]
    assert len(entry["values"]) == len(entry["head_values"]) == 2
    assert entry["value"] == pytest.approx(sum(entry["values"]) / 2)
    assert sorted(path.name for path in noisy.cache.rglob("0001*.run.log")) == [
        "0001-1.run.log", "0001-2.run.log", "0001-3.run.log", "0001.run.log",
    ]  # fmt: skip


def test_a_run_is_told_its_tree_and_the_one_it_was_proposed_against(noisy: Tiny) -> None:
    runs = noisy.tmp / "runs"
    line = f"echo $ARK_TREE $ARK_PARENT_TREE >> {runs}"
    noisy.write("train.sh", f"{line}\necho 10 > answer.txt\n")
    noisy.commit("tell")
    played = noisy.play(
        f"echo '{line}; echo $TURN'0 > train.sh; echo 'echo 9'$TURN' > answer.txt' >> train.sh", attempts=2
    )
    assert played.outcomes == ["keep"] * 3
    baseline, first, second = (noisy.git("rev-parse", f"{a.commit}^{{tree}}").strip() for a in played.attempts)
    lines = [tuple(line.split()) for line in runs.read_text().splitlines()]
    assert lines[:3] == [(baseline, baseline)] * 3
    measured = [[m.of_head for m in attempt.measurements] for attempt in played.attempts]
    assert any(measured[1]) and any(measured[2]), "the head was measured in turn"
    heads = [(baseline, baseline), (first, baseline)]
    for of_head, own, head in zip(measured[1:], [(first, baseline), (second, first)], heads, strict=True):
        start = 3 if own[1] == baseline else 3 + len(measured[1])
        assert lines[start : start + len(of_head)] == [head if is_head else own for is_head in of_head]


def test_what_looks_worse_costs_one_run(noisy: Tiny) -> None:
    played = noisy.play("answer $((5 - TURN))", attempts=4)
    assert played.outcomes == ["keep"] + ["discard"] * 4
    assert [len(attempt.measurements) for attempt in played.attempts] == [3, 1, 1, 1, 1]
    assert all(" in one run, noise " in attempt.verdict.reason for attempt in played.attempts[1:] if attempt.verdict)


def test_luck_is_not_kept(noisy: Tiny) -> None:
    """Changes without effect; the plain rule, replayed on the same samples, would have kept the best of them."""
    noisy.commit(decision={"false_keeps": 0.001})  # or it would fail once in seventy times, as promised
    played = noisy.play('echo "# $TURN" >> train.sh', attempts=15)
    assert played.outcomes.count("keep") == 1, [a.verdict.reason for a in played.attempts if a.verdict]
    assert all(len(attempt.measurements) <= 12 for attempt in played.attempts)
    done = noisy.ark_here("log", "--tag", "t", "--replay", "first_better", "--json")
    replayed = json.loads(done.stdout)
    assert len(replayed) == 15 and [entry["number"] for entry in replayed] == list(range(1, 16))
    values = [attempt.values[0] for attempt in played.attempts[1:]]
    head = played.attempts[0].value
    assert head is not None
    assert [entry["replayed"] for entry in replayed] == ["keep" if value > head else "discard" for value in values]


@pytest.mark.slow
def test_the_checks_see_what_the_candidate_left(noisy: Tiny) -> None:
    noisy.commit(checks=['test "$(cat answer.txt)" = 90'])
    with pytest.raises(ArkError, match="the baseline failed: check `test"):
        noisy.play("answer 90", attempts=1)
    noisy.commit(checks=["grep -Eq 'echo (10|50|90)' train.sh", 'test "$(cat answer.txt)" != 50'])
    played = noisy.play("[ $TURN = 1 ] && answer 50 || answer 90", attempts=2)
    assert played.outcomes == ["keep", "discard", "keep"]
    assert len(played.attempts[1].measurements) == 4
    assert "check `test" in (played.attempts[1].verdict.reason if played.attempts[1].verdict else "")


def test_a_candidate_that_crashes_later_is_a_crash(noisy: Tiny) -> None:
    once = noisy.tmp / "once"
    played = noisy.play(f"echo 'echo 90 > answer.txt; [ ! -e {once} ] || exit 7; touch {once}' > train.sh", attempts=1)
    assert played.outcomes == ["keep", "crash"]
    assert [m.of_head for m in played.last.measurements] == [False, True, True, False]
    assert played.last.problem.startswith("exit: ")


def test_a_head_that_fails_by_chance_is_measured_again(noisy: Tiny) -> None:
    noisy.write("train.sh", "echo 10 > answer.txt; [ ! -e $FAIL ] || { rm $FAIL; exit 7; }\n")
    noisy.commit(env={"FAIL": str(noisy.tmp / "fail")})
    played = noisy.play(f"touch {noisy.tmp}/fail; echo 'echo 90 > answer.txt' > train.sh", attempts=1)
    assert played.outcomes == ["keep", "keep"]
    assert [(m.of_head, bool(m.problem)) for m in played.last.measurements] == [
        (False, False), (True, True), (True, False), (True, False), (False, False),
    ]  # fmt: skip
    assert played.last.problem == "" and len(played.last.head_values) == 2


def test_a_head_that_fails_for_good_ends_the_run(noisy: Tiny) -> None:
    noisy.write("train.sh", "[ ! -e $FAIL ] || exit 7; echo 10 > answer.txt\n")
    noisy.commit(env={"FAIL": str(noisy.tmp / "fail")})
    with pytest.raises(ArkError, match="the head, attempt 0, fails now: exit: "):
        noisy.play(f"touch {noisy.tmp}/fail; echo 'echo 90 > answer.txt' > train.sh", attempts=1)
    entry = noisy.log()[-1]
    assert (entry["outcome"], entry["values"], entry["problem"]) == ("lost", [90 + entry["values"][0] % 1], "")


@pytest.mark.slow
def test_a_limit_holds_in_every_run(noisy: Tiny) -> None:
    twice = noisy.tmp / "twice"
    noisy.write("train.sh", "echo 10 > answer.txt; echo mb: 5\n")
    noisy.commit(constraints=["mb <= 5"])
    script = f"echo 'echo 90 > answer.txt; [ -e {twice} ] && echo mb: 6 || echo mb: 4; touch {twice}' > train.sh"
    played = noisy.play(script, attempts=1)
    assert played.outcomes == ["keep", "discard"]
    assert played.last.verdict is not None and "mb is 6 where `mb <= 5` is required" in played.last.verdict.reason


def test_a_limit_on_a_metric_that_nothing_measures(noisy: Tiny) -> None:
    noisy.write("train.sh", "echo 10 > answer.txt; echo peak_mb: 5\n")
    noisy.commit(constraints=["peek_mb <= 5"])
    with pytest.raises(SpecError) as raised:
        noisy.play("true", attempts=0)
    assert raised.value.message.endswith("`constraints` limits peek_mb, which nothing measures")
    assert "peak_mb" in raised.value.hint and raised.value.exit_code == 2
    assert noisy.git("for-each-ref", "refs/ark", "refs/heads/autoresearch") == ""


@pytest.mark.slow
def test_without_noise_one_run_each_and_a_known_baseline_once(tiny: Tiny) -> None:
    played = tiny.play("answer $((7 + TURN * 2))", attempts=4, tag="a")
    assert [len(attempt.measurements) for attempt in played.attempts] == [3, 1, 1, 1, 1]
    assert played.outcomes == ["keep", "discard", "keep", "keep", "keep"]
    again = tiny.play("answer $((7 + TURN * 2))", attempts=2, tag="b")
    assert [len(attempt.measurements) for attempt in again.attempts] == [1, 1, 1]
    assert again.attempts[0].verdict is not None
    assert again.attempts[0].verdict.reason == "Baseline: 10, without noise, as an earlier run showed"
    resumed = tiny.play("answer 40", attempts=1, tag="b")
    assert len(resumed.last.measurements) == 1 and resumed.outcomes[-1] == "keep"


@pytest.mark.slow
def test_a_known_baseline_that_changed_is_measured_in_full(tiny: Tiny) -> None:
    value = tiny.write("../value", "10")
    tiny.write("evaluate.sh", f'echo "score: $(cat {value})"\n')
    tiny.commit()
    tiny.play("true", attempts=0, tag="a")
    value.write_text("11")
    played = tiny.play("true", attempts=0, tag="b")
    assert played.attempts[0].values == (11.0, 11.0, 11.0)


@pytest.mark.slow
def test_the_plain_rule_is_still_there(noisy: Tiny) -> None:
    noisy.commit(decision="first_better")
    played = noisy.play("answer $((9 + TURN))", attempts=2)
    assert [len(attempt.measurements) for attempt in played.attempts] == [1, 1, 1]
    assert played.outcomes[-1] == "keep"


def test_a_rule_that_was_never_asked_cannot_be_told(noisy: Tiny) -> None:
    noisy.commit(decision="first_better")
    noisy.play("answer $((90 + TURN))", attempts=2)
    done = noisy.ark_here("log", "--tag", "t", "--replay", "sequential")
    assert "2 cannot be told from what was measured" in done.stdout
    same = noisy.ark_here("log", "--tag", "t", "--replay", "first_better")
    assert same.stdout == "of 2 attempts this rule would have kept 2 where 2 were kept; it keeps 1, 2\n"


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["best", "{max_runs: 1}", "{false_keeps: -1}", "{", "[1]", "3", "{alpha: 1}", ""])
def test_a_rule_that_is_none(noisy: Tiny, rule: str) -> None:
    noisy.play("true", attempts=0)
    done = noisy.ark_here("log", "--tag", "t", "--replay", rule)
    assert done.returncode == 2 and f"`{rule}` is not a rule" in done.stderr, done.stderr


def test_a_limit_that_is_added_to_a_run_with_a_typo(noisy: Tiny) -> None:
    noisy.write("train.sh", "echo 10 > answer.txt; echo peak_mb: 5\n")
    noisy.commit()
    noisy.play("true", attempts=0)
    noisy.commit(constraints=["peek_mb <= 5"])
    with pytest.raises(SpecError, match="`constraints` limits peek_mb, which nothing measures"):
        noisy.play("answer 90", attempts=1)
    assert [entry["outcome"] for entry in noisy.log()] == ["keep"], "no attempt is wasted"
    checked = noisy.ark_here("check")
    assert checked.returncode == 1 and "limits peek_mb, which nothing measures" in checked.stdout


@pytest.mark.slow
def test_the_checks_never_look_at_the_head(noisy: Tiny) -> None:
    """With so few runs the head is measured last."""
    noisy.write("train.sh", "echo 10 > answer.txt; echo good > mark.txt\n")
    noisy.commit(
        decision={"max_runs": "3", "false_keeps": 40},
        budget={"attempts": 2},
        artifacts=["answer.txt", "mark.txt"],
        checks=["grep -q good mark.txt"],
    )
    script = '[ $TURN = 1 ] && MARK=bad || MARK=good; echo "echo 90 > answer.txt; echo $MARK > mark.txt" > train.sh'
    played = noisy.play(script)
    assert played.outcomes == ["keep", "discard", "keep"]
    assert [m.of_head for m in played.last.measurements] == [False, True, False]
    replayed = json.loads(
        noisy.ark_here("log", "--tag", "t", "--replay", "{false_keeps: 40, max_runs: 3}", "--json").stdout
    )
    assert [entry["replayed"] for entry in replayed] == ["discard", "keep"], "what failed a check stays out"


@pytest.mark.slow
def test_an_attempt_that_was_stopped_has_used_its_share(noisy: Tiny) -> None:
    noisy.write("train.sh", "[ ! -e $FAIL ] || exit 7; echo 10 > answer.txt\n")
    noisy.commit(env={"FAIL": str(noisy.tmp / "fail")}, budget={"attempts": 50})
    with pytest.raises(ArkError):
        noisy.play(f"touch {noisy.tmp}/fail; echo 'echo 90 > answer.txt' > train.sh", attempts=1)
    (noisy.tmp / "fail").unlink()
    played = noisy.play("answer 5", attempts=1)
    lost, after = played.attempts[1:]
    assert lost.verdict is not None and lost.verdict.share == pytest.approx(0.1 / 50)
    assert after.verdict is not None and after.verdict.share == pytest.approx(0.098 / 50)


def test_a_promise_too_small_to_keep_anything(noisy: Tiny) -> None:
    noisy.commit(decision={"false_keeps": 1e-320})
    assert noisy.play("answer 90", attempts=1).outcomes == ["keep", "discard"]
