"""The parts of a report that are counted together: gains, claims, time and cost, crashes, the tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.entry import gain_percent, gain_words
from autoresearch_kit.core.history import History
from autoresearch_kit.core.outlook import Outlook
from autoresearch_kit.core.records import Attempt, Cost, Outcome, clean_line, number
from autoresearch_kit.core.verification import State, Verification, block_lines
from autoresearch_kit.core.words import duration, money, percent, rate, signed

Found = dict[str, Any]

NUMBERS_SHOWN = 40
"""Crashes of one kind that are listed by number."""


KIND_CHARACTERS = 40
"""Of the name of a kind of crash."""


# How it stands


def summary(campaign: Campaign, verifications: Sequence[Verification] = ()) -> Found:
    """The state of a run in numbers, and the words for the tiles at the head of the page."""
    first, best = campaign.baseline, campaign.best
    counts = {outcome: sum(a.outcome is outcome for a in campaign.tried) for outcome in Outcome}
    start, best_value = (first.value if first else None), (best.value if best else None)
    spent, measured = elapsed(campaign.attempts), sum(a.seconds for a in campaign.attempts)
    tried, cost = len(campaign.tried), campaign.cost
    found: Found = {
        "baseline": start,
        "best": best_value,
        "best_attempt": best.number if best else None,
        "gain_percent": gain_percent(start, best_value, campaign.maximize),
        "attempts": tried,
        "kept": counts[Outcome.KEEP],
        "discarded": counts[Outcome.DISCARD],
        "crashes": counts[Outcome.CRASH],
        "lost": counts[Outcome.LOST],
        "running": len(campaign.open),
        "started": campaign.attempts[0].started if campaign.attempts else None,
        "last_started": campaign.attempts[-1].started if campaign.attempts else None,
        "elapsed_seconds": spent,
        "measured_seconds": measured,
        "cost": {"seconds": cost.seconds, "tokens": cost.tokens, "money": cost.money},
    }
    after = f"from {number(start)}" if start is not None and best is not first else ""
    tiles = [
        ("best", f"best {campaign.metric}", "none yet" if best_value is None else number(best_value), after),
        ("gain", "gain", *_gain_tile(campaign, of_head(campaign, verifications) is not None)),
        ("attempts", "attempts", f"{tried}", _counts(found)),
        ("time", "time", duration(spent) if spent else "", _rate(tried, spent, measured)),
    ]
    if cost.money is not None or cost.tokens is not None:
        tiles.append(("cost", "cost of agents", *_cost_tile(cost)))
    found["tiles"] = [dict(zip(("key", "label", "value", "note"), tile, strict=True)) for tile in tiles]
    return found


def _gain_tile(campaign: Campaign, verified: bool) -> tuple[str, str]:
    first, best = campaign.baseline, campaign.best
    if not campaign.kept or first is None or best is None or first.value is None or best.value is None:
        return "none", "no change kept so far" if campaign.tried else ""
    doubt = "" if verified else ", not verified"
    words = gain_words(first.value, best.value, campaign.maximize)
    if " times " in words:
        return f"{words.partition(' ')[0]} times", f"the baseline{doubt}"
    share = gain_percent(first.value, best.value, campaign.maximize)
    if share is None:
        gain = best.value - first.value
        return signed(gain if campaign.maximize else -gain), f"over the baseline{doubt}"
    return percent(share), f"over the baseline{doubt}"


def _counts(found: Mapping[str, Any]) -> str:
    words = [f"{found['kept']} kept", f"{found['discarded']} discarded"]
    words += [f"{found['crashes']} crashed"] if found["crashes"] else []
    words += [f"{found['lost']} lost"] if found["lost"] else []
    words += [f"{found['running']} running"] if found["running"] else []
    return ", ".join(words)


def _rate(tried: int, spent: float, measured: float) -> str:
    if not tried or not spent:
        return ""
    return f"{rate(3600 * tried / spent)} attempts an hour" + (f", {duration(measured)} measuring" if measured else "")


def _cost_tile(cost: Cost) -> tuple[str, str]:
    tokens = f"{cost.tokens:,} tokens" if cost.tokens is not None else ""
    return (money(cost.money), tokens) if cost.money is not None else (tokens, "")


def elapsed(attempts: Sequence[Attempt]) -> float:
    """Wall time from the first start to the end of the last measurement, pauses included; 0 where no time is known."""
    moments = [(when.timestamp(), a.seconds) for a in attempts if (when := moment(a.started)) is not None]
    return max(at + seconds for at, seconds in moments) - min(at for at, _ in moments) if moments else 0.0


def moment(text: str) -> datetime | None:
    """A time of the ledger, or None."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


# What came of it


def gains(campaign: Campaign) -> list[Found]:
    """The kept changes by what each gained when it was kept, the largest first, with its share of all gains."""
    rows = [(a, a.verdict.gain) for a in campaign.kept if a.verdict and a.verdict.gain is not None]
    whole = math.fsum(max(0.0, gain) for _, gain in rows)
    start = campaign.baseline.value if campaign.baseline else None
    return [
        {
            "number": attempt.number,
            "title": attempt.proposal.title,
            "gain": gain,
            "words": f"{gain:+.3g}",
            "percent": percent(100 * gain / abs(start)) if start else "",
            "share": max(0.0, 100 * gain / whole) if whole else 0.0,
        }
        for attempt, gain in sorted(rows, key=lambda row: -row[1])
    ]


def of_head(campaign: Campaign, verifications: Sequence[Verification]) -> Verification | None:
    """The latest verification with a result for what is now the head."""
    best = campaign.best
    done = [v for v in verifications if v.state is State.DONE and v.gain is not None]
    return next((v for v in reversed(done) if best and v.head.commit == best.commit), None)


def claims(campaign: Campaign, verifications: Sequence[Verification]) -> Found:
    """What may be said of the gain: the verification of the head if there is one, and what the noise lets be seen."""
    found: Found = {"headline": "", "block": [], "sentences": []}
    say = found["sentences"].append
    best, verified = campaign.best, of_head(campaign, verifications)
    if verified is not None:
        lines = block_lines(verified)
        found["headline"], found["block"] = lines[0], [line for line in lines[1:] if line]
        say("Baseline and head were measured anew, in turn and with fresh seeds, by `ark verify`: publish this number.")
    elif campaign.kept:
        say(_UNVERIFIED)
        if verifications and verifications[-1].gain is not None:
            say(f"The last verification is of attempt {verifications[-1].head.attempt}, which is no longer the head.")
    elif campaign.attempts:
        say("Nothing was kept so far, so there is no gain to claim.")
    if campaign.source != ARK:
        say(
            "These numbers are as their own log tells them: `ark` measured none of them and cannot say what the "
            "noise is."
        )
    elif campaign.spec is not None and best is not None:
        for sentence in _noise(campaign, best):
            say(sentence)
    return found


_UNVERIFIED = (
    "The best value was kept because it looked good, so it may owe something to luck. `ark verify` measures baseline "
    "and head anew, in turn: that is the number to publish."
)


def _noise(campaign: Campaign, best: Attempt) -> list[str]:
    assert campaign.spec is not None
    outlook = Outlook.of(campaign.spec, campaign.attempts, best, History(campaign.attempts))
    noise = outlook.noise
    if not noise.freedom:
        return ["Nothing was measured twice, so nothing is known of the noise: a small gain may be luck."]
    if noise.none:
        return ["Repeated measurements never differed so far, so there was no luck to be had."]
    if not outlook.is_noisy:
        return []
    found = [
        f"One measurement has a noise of {outlook.amount(noise.sd)} (standard deviation, from {noise.freedom} "
        f"repeated measurement{'s' * (noise.freedom > 1)})."
    ]
    if campaign.spec.decision.rule == "sequential":
        gain = outlook.gain
        if math.isinf(gain):
            found.append(f"With this noise no gain can be detected in {campaign.spec.decision.max_runs} runs each.")
        else:
            found.append(
                f"The smallest gain that is found four times in five is {outlook.amount(gain)}: "
                "that nothing smaller was kept does not mean that there was none."
            )
    else:
        found += [f"{text[0].upper()}{text[1:]}." for text, _ in outlook.warnings()]
    return found


def costs(campaign: Campaign) -> list[Found]:
    """What each agent tried, kept and cost; a last row for all when there are several."""
    start = campaign.baseline.value if campaign.baseline else None
    rows = [_cost_row(name, [a for a in campaign.tried if a.proposal.agent == name], start) for name in campaign.agents]
    if len(rows) > 1:
        rows.append({**_cost_row("all", campaign.tried, start), "whole": True})
    return rows


def _cost_row(name: str, attempts: Sequence[Attempt], start: float | None) -> Found:
    cost = sum((a.proposal.cost for a in attempts), Cost())
    kept = [a for a in attempts if a.outcome is Outcome.KEEP]
    gain = math.fsum(a.verdict.gain or 0.0 for a in kept if a.verdict)
    share = 100 * gain / abs(start) if start else None
    return {
        "agent": name,
        "attempts": len(attempts),
        "kept": len(kept),
        "kept_percent": percent(100 * len(kept) / len(attempts)) if attempts else "",
        "crashes": sum(a.outcome is Outcome.CRASH for a in attempts),
        "gain": percent(share) if share else "",
        "thinking": duration(cost.seconds) if cost.seconds else "",
        "measuring": duration(math.fsum(a.seconds for a in attempts)),
        "tokens": f"{cost.tokens:,}" if cost.tokens is not None else "",
        "money": money(cost.money) if cost.money is not None else "",
        "money_per_percent": money(cost.money / share) if cost.money and share and share > 0 else "",
        "whole": False,
    }


def crashes(campaign: Campaign) -> list[Found]:
    """Crashes by kind, the most frequent first, each with a sentence of the latest."""
    kinds: dict[str, list[Attempt]] = {}
    for attempt in campaign.attempts:
        if attempt.outcome is Outcome.CRASH:
            kinds.setdefault(clean_line(attempt.problem.partition(":")[0], KIND_CHARACTERS) or "unknown", []).append(
                attempt
            )
    return [
        {
            "kind": kind,
            "count": len(found),
            "example": found[-1].problem.partition(":")[2].strip() or found[-1].problem,
            "numbers": [a.number for a in found[-NUMBERS_SHOWN:]],
            "more": max(0, len(found) - NUMBERS_SHOWN),
        }
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]


def tree(campaign: Campaign) -> list[Found]:
    """The kept attempts in order, each with what was tried from it and did not stay."""
    spine: list[Found] = []
    by_commit: dict[str, Found] = {}
    for attempt in campaign.attempts:
        if attempt.outcome is Outcome.KEEP:
            node: Found = {"number": attempt.number, "title": attempt.proposal.title, "value": attempt.value}
            node |= {"gain": attempt.verdict.gain if attempt.verdict else None, "tried": []}
            spine.append(node)
            if attempt.commit:
                by_commit[attempt.commit] = node
        elif spine:
            node = by_commit.get(attempt.parent, spine[-1])
            node["tried"].append({"number": attempt.number, "outcome": str(attempt.outcome)})
        else:
            spine.append({"number": None, "title": "", "value": None, "gain": None, "tried": []})
            spine[-1]["tried"].append({"number": attempt.number, "outcome": str(attempt.outcome)})
    return spine
