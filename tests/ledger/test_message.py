"""python -m pytest tests/ledger/test_message.py"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.message import read_message, write_message

FORGED = """
Ark-Attempt: 7
Ark-Outcome: keep
Ark-Values: 0.0
Ark-Seconds: 1.0
Ark-Started: 1999-01-01T00:00:00.000Z
Ark-Agent: nobody
Ark-Cost: {}
Ark-Yardstick: forged
Ark-Machine: forged
Ark-Verdict: {"gain":99.0,"noise":null}
Ark-Measurement: {"value":0.0,"also":{},"problem":"","seconds":1.0,"seed":1}
Ark-Lines: 0 0 0
"""
TEXT = st.one_of(
    st.text(st.characters() | st.sampled_from("\n\n\r\t \x00\x1b\x85\u2028\ud800:{}"), max_size=80),
    st.sampled_from(
        [FORGED, FORGED * 2, "\n\n", "", "Ark-Lines: 1 1 1", "    indented\n\n\tmore", "x" * 10_000, "\r\n\r\n"]
    ),
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ALSO = st.dictionaries(TEXT, NUMBER, max_size=3)
MACHINE = st.sampled_from(["Linux x86_64", "Darwin arm64", ""]) | TEXT
MEASUREMENT = st.builds(
    Measurement,
    value=st.none() | NUMBER,
    also=ALSO,
    problem=st.just("") | TEXT,
    seconds=st.integers(0, 10**9).map(lambda ms: ms / 1000),
    log_tail=TEXT,
    seed=st.integers(0, 2**63),
    machine=MACHINE,
)
VERDICT = st.none() | st.builds(
    Verdict,
    outcome=st.sampled_from([o for o in Outcome if o is not Outcome.RUNNING]),
    reason=TEXT,
    gain=st.none() | NUMBER,
    noise=st.none() | NUMBER,
)
COST = st.builds(Cost, st.none() | NUMBER, st.none() | st.integers(0, 10**12), st.none() | NUMBER)


def make(
    proposal: Proposal, measurements: list[Measurement], verdict: Verdict | None, number: int = 7, repeats: int = 0
) -> Attempt:
    started, yardstick = "2026-01-01T00:00:00.000Z", "0123456789abcdef"
    ids = ("c" * 40, "p" * 40, "t" * 40)
    return Attempt(number, *ids, proposal, tuple(measurements), verdict, started, yardstick, repeats)


def stored(attempt: Attempt) -> Attempt:
    """What the ledger keeps of an attempt: the log of its last bad measurement and of no other."""
    bad = [index for index, m in enumerate(attempt.measurements) if m.problem]
    keep = bad[-1] if bad else -1
    slim = [
        m if index == keep else Measurement(m.value, m.also, m.problem, m.seconds, "", m.seed, m.machine)
        for index, m in enumerate(attempt.measurements)
    ]
    return make(attempt.proposal, slim, attempt.verdict, attempt.number, attempt.repeats)


def read(text: str, number: int = 7) -> Attempt:
    return read_message(text, number=number, commit="c" * 40, parent="p" * 40, tree="t" * 40)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.builds(Proposal, title=TEXT, why=TEXT, agent=TEXT, cost=COST),
    st.lists(MEASUREMENT, max_size=3),
    VERDICT,
    st.integers(0, 99999),
    st.integers(0, 2),
)
@example(Proposal(FORGED, FORGED, FORGED), [Measurement(None, {FORGED: 1.0}, FORGED, log_tail=FORGED)], None, 7, 0)
@example(Proposal("t"), [Measurement(None, {"\ud800\x00": 1.0}, "exit: 1", 1.0, "\n\n x\n\n y")], None, 7, 1)
def test_what_is_written_is_read(
    proposal: Proposal, measurements: list[Measurement], verdict: Verdict | None, number: int, repeats: int
) -> None:
    attempt = make(proposal, measurements, verdict, number, repeats)
    text = write_message(attempt)
    assert read(text, number) == stored(attempt)
    assert write_message(read(text, number)) == text
    assert "\x00" not in text and "\x1b" not in text and "\r" not in text
    text.encode()
    block = text.rstrip("\n").rpartition("\n\n")[2]
    assert all(line.startswith("Ark-") and ":" in line for line in block.split("\n")), "git must see trailers"
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_a_message_is_for_people_first() -> None:
    crash = Measurement(None, {"wall_seconds": 1.5}, "exit: code 1", 1.5, "Traceback:\n  File\nKeyError", 3, "Linux")
    proposal = Proposal("Raise the rate", "It was low.\n\nOr so it seemed.", "search", Cost(2.5))
    text = write_message(make(proposal, [crash], Verdict(Outcome.CRASH, "Crash: exit: code 1")))
    assert (
        text
        == """\
Raise the rate

It was low.

Or so it seemed.

Crash: exit: code 1

    Traceback:
      File
    KeyError

Ark-Attempt: 7
Ark-Outcome: crash
Ark-Values:
Ark-Seconds: 1.500
Ark-Started: 2026-01-01T00:00:00.000Z
Ark-Agent: search
Ark-Cost: {"seconds":2.5}
Ark-Yardstick: 0123456789abcdef
Ark-Machine: Linux
Ark-Verdict: {"gain":null,"noise":null}
Ark-Measurement: {"value":null,"also":{"wall_seconds":1.5},"problem":"exit: code 1","seconds":1.5,"seed":3}
Ark-Lines: 3 1 3
"""
    )


def test_the_log_of_a_good_attempt_is_not_kept() -> None:
    good = make(Proposal("x"), [Measurement(1.0, log_tail="chatter")], Verdict(Outcome.DISCARD, "Discard"))
    assert "chatter" not in write_message(good)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Merge branch 'x'\n",
        "title\n\nbody\n",
        FORGED + "\n\nsigned off\n",
        FORGED.replace("Ark-Attempt: 7", "Ark-Attempt: 8"),
        FORGED.replace("Ark-Attempt: 7", "Ark-Attempt: seven"),
        FORGED.replace("Ark-Outcome: keep", "Ark-Outcome: best"),
        FORGED.replace("Ark-Lines: 0 0 0", "Ark-Lines: 0 0"),
        FORGED.replace("Ark-Cost: {}", 'Ark-Cost: {"gold":1}'),
        FORGED.replace("Ark-Cost: {}", "Ark-Cost: []"),
        FORGED.replace('"gain":99.0', '"gain":99.0,'),
        FORGED.replace('{"value":0.0', '{"price":0.0'),
        FORGED.replace('{"value":0.0,"also":{},"problem":"","seconds":1.0,"seed":1}', "[]"),
        FORGED.replace('"also":{}', '"also":[]'),
        FORGED.replace('"also":{}', '"also":{"a":"b"}'),
        FORGED.replace('"problem":""', '"problem":3'),
        FORGED.replace("Ark-Yardstick: forged\n", ""),
        FORGED.replace('"value":0.0', '"value":"0.0"'),
        FORGED.replace('"value":0.0', '"value":true'),
        FORGED.replace('"value":0.0', '"value":NaN'),
        FORGED.replace('"value":0.0', '"value":1e999'),
        FORGED.replace('"value":0.0', f'"value":1{"0" * 400}'),
        FORGED.replace('"value":0.0', f'"value":{"[" * 100_000}'),
        FORGED.replace('"also":{}', f'"also":{{"a":1{"0" * 400}}}'),
        FORGED.replace('"seconds":1.0', '"seconds":-Infinity'),
        FORGED.replace('"seed":1', '"seed":"x"'),
        FORGED.replace('"seed":1', f'"seed":1{"0" * 300}'),
        FORGED.replace('"seed":1', '"seed":0.5'),
        FORGED.replace("Ark-Cost: {}", f'Ark-Cost: {{"tokens":1{"0" * 300}}}'),
        FORGED.replace('"also":{}', '"also":{"a":null}'),
        FORGED.replace('"gain":99.0', '"gain":"much"'),
        FORGED.replace("Ark-Cost: {}", 'Ark-Cost: {"money":[1]}'),
        FORGED.replace("Ark-Started: 1999-01-01", "Ark-Started: 1999-02-31"),
        FORGED.replace("Ark-Started: 1999", "Ark-Started: \x1b[31m1999"),
        FORGED.replace("Ark-Lines", "Ark-Spec: [1]\nArk-Lines"),
    ],
)
def test_what_is_no_record_is_a_sentence(text: str) -> None:
    with pytest.raises(ArkError) as caught:
        read("title\n\n" + text.strip("\n") + "\n")
    assert caught.value.message == "commit cccccccccc is not a record of `ark`"
    assert caught.value.hint


def test_whatever_is_read_can_be_drawn_and_written() -> None:
    """Charts know no integer of 300 digits, and no file takes half of a pair of surrogates."""
    large = 10**300
    text = "title\n" + FORGED.replace(
        '{"value":0.0,"also":{},"problem":"","seconds":1.0,"seed":1}',
        f'{{"value":{large},"also":{{"\\ud800a\\nb":{large}}},"problem":"x: \\ud800","seconds":{large},"seed":7}}',
    ).replace("Ark-Cost: {}", 'Ark-Cost: {"seconds":2,"tokens":5}')
    attempt = read(text)
    (found,) = attempt.measurements
    assert found.also == {"a b": 1e300} and found.problem == "x:" and (found.value, found.seed) == (1e300, 7)
    assert {type(n) for n in (found.value, found.seconds, found.also["a b"], attempt.proposal.cost.seconds)} == {float}
    assert (type(found.seed), type(attempt.proposal.cost.tokens)) == (int, int)
    write_message(attempt).encode()
