"""The parts of a report that are counted together: gains, claims, time and cost, the tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.entry import NO_GAIN, gain_percent, gain_short, gain_words, percent_of
from autoresearch_kit.core.history import History
from autoresearch_kit.core.outlook import Outlook
from autoresearch_kit.core.records import Attempt, Cost, Outcome
from autoresearch_kit.core.verification import Verification, block_lines, of_head
from autoresearch_kit.core.words import apart, at_least, digits, duration, money, percent, rate
from autoresearch_kit.views.worktime import elapsed, moment

Found = dict[str, Any]

BASELINES_SHOWN = 8
"""Baselines that were measured anew and are named."""


# How it stands


def summary(campaign: Campaign, verifications: Sequence[Verification] = ()) -> Found:
    """The state of a run in numbers, and the words for the tiles at the head of the page."""
    first, best = campaign.baseline, campaign.best
    counts = {outcome: sum(a.outcome is outcome for a in campaign.tried) for outcome in Outcome}
    start, best_value = (first.value if first else None), (best.value if best else None)
    spent, measured = span(campaign.attempts), sum(a.seconds for a in campaign.attempts)
    tried, cost = len(campaign.tried), campaign.cost
    # Where only kept attempts are known, nobody knows what was work between them.
    ends = None if campaign.source == BRANCH else elapsed(campaign.attempts)
    work = ends[-1] if ends else None
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
        "work_seconds": work,
        "measured_seconds": measured,
        "baseline_seconds": measured - sum(a.seconds for a in campaign.tried),
        "cost": {"seconds": cost.seconds, "tokens": cost.tokens, "money": cost.money},
    }
    after = f"from {apart(start, best_value)}" if start is not None and best is not first else ""
    top = campaign.top
    is_top = top is None or top.value is None or best_value in (None, top.value)
    if top is not None and top.value is not None and not is_top:
        after += f"; attempt {top.number} had {apart(top.value, best_value)}"
    label = f"best {campaign.metric}" if is_top else f"{campaign.metric} of the head"
    tiles = [
        ("best", label, "none yet" if best_value is None else apart(best_value, start), after),
        ("gain", "gain", *_gain_tile(campaign, of_head(verifications, campaign.best) is not None)),
        ("attempts", "attempts", f"{tried}", _counts(found)),
    ]
    if spent:
        tiles.append(("time", "time at work" if work else "time", *_time_tile(tried, work, spent, measured)))
    if cost.money is not None or cost.tokens is not None:
        tiles.append(("cost", "cost of agents", *_cost_tile(cost, campaign.tried)))
    found["tiles"] = [dict(zip(("key", "label", "value", "note"), tile, strict=True)) for tile in tiles]
    return found


def _gain_tile(campaign: Campaign, verified: bool) -> tuple[str, str]:
    first, best = campaign.baseline, campaign.best
    if first is None or best is None or first.value is None or best.value is None or best is first:
        since = f" since the baseline of attempt {first.number}" if first and campaign.kept else " so far"
        return "none", f"no change kept{since}" if campaign.tried else ""
    doubt = "" if verified else ", not verified"
    if gain_words(first.value, best.value, campaign.maximize) == NO_GAIN:
        return "none", "no better than the baseline"
    share = percent(gain_percent(first.value, best.value, campaign.maximize))
    words = gain_short(first.value, best.value, campaign.maximize)
    if words.endswith("times"):  # the percents in the tables add up to what is beside it
        return words, f"the baseline, {share} over it{doubt}"
    return words, f"over the baseline{doubt}"


def _counts(found: Mapping[str, Any]) -> str:
    words = [f"{found['kept']} kept", f"{found['discarded']} discarded"]
    words += [f"{found['crashes']} crashed"] if found["crashes"] else []
    words += [f"{found['lost']} lost"] if found["lost"] else []
    words += [f"{found['running']} running"] if found["running"] else []
    return ", ".join(words)


def _time_tile(tried: int, work: float | None, spent: float, measured: float) -> tuple[str, str]:
    notes = [f"{rate(3600 * tried / work)} attempts an hour"] if tried and work else []
    notes += [f"{duration(measured)} measuring"] if tried and measured else []
    if work and duration(work) != duration(spent) and spent > work:
        notes.append(f"{duration(spent)} with pauses")
    return duration(work or spent), ", ".join(notes)


def _cost_tile(cost: Cost, tried: Sequence[Attempt]) -> tuple[str, str]:
    tokens = f"{_known(tried, 'tokens', f'{cost.tokens:,}')} tokens" if cost.tokens is not None else ""
    return (_known(tried, "money", money(cost.money)), tokens) if cost.money is not None else (tokens, "")


def _known(attempts: Sequence[Attempt], kind: str, amount: str) -> str:
    """A sum of `kind` of cost over attempts of which some may not tell it."""
    return at_least(amount, sum(getattr(a.proposal.cost, kind) is not None for a in attempts), len(attempts))


def span(attempts: Sequence[Attempt]) -> float:
    """Wall time from the first start to the end of the last measurement, pauses included; 0 where no time is known."""
    moments = [(when, a.seconds) for a in attempts if (when := moment(a.started)) is not None]
    return max(at + seconds for at, seconds in moments) - min(at for at, _ in moments) if moments else 0.0


# What came of it


def gains(campaign: Campaign) -> list[Found]:
    """The kept changes by what each gained when it was kept: those since the last baseline first, the largest first.

    The percent is of the baseline then in force, the share of all gains since that baseline: the values of two machines
    cannot be added up.
    """
    found: list[Found] = []
    for stretch in reversed(_stretches(campaign)):
        rows = [(a, a.verdict.gain) for a in stretch[1:] if a.outcome is Outcome.KEEP and a.verdict]
        known = [(a, gain) for a, gain in rows if gain is not None and math.isfinite(gain)]
        largest = max((gain for _, gain in known), default=0.0)
        whole = math.fsum(max(0.0, gain / largest) for _, gain in known) if largest > 0 else 0.0
        found += [
            {
                "number": attempt.number,
                "title": attempt.proposal.title,
                "gain": gain,
                "words": f"{gain:+.3g}",
                "percent": percent(percent_of(gain, stretch[0].value)),
                "share": max(0.0, 100 * (gain / largest / whole)) if whole else 0.0,
                "since": stretch[0].number,
            }
            for attempt, gain in sorted(known, key=lambda row: -row[1])
        ]
    return found


def _stretches(campaign: Campaign) -> list[list[Attempt]]:
    """The attempts of each baseline, from it on; without those before the first."""
    found: list[list[Attempt]] = []
    for attempt in campaign.attempts:
        if attempt.outcome is Outcome.KEEP and attempt.is_baseline:
            found.append([attempt])
        elif found:
            found[-1].append(attempt)
    return found


def baselines_note(campaign: Campaign) -> str:
    """What gains are counted from where there was more than one baseline; empty where there was one."""
    again = [str(a.number) for a in campaign.baselines[1:]]
    if not again:
        return ""
    shown = ("..., " if len(again) > BASELINES_SHOWN else "") + ", ".join(again[-BASELINES_SHOWN:])
    return (
        f"The baseline was measured anew at attempt{'s' * (len(again) > 1)} {shown}. Gains are of the baseline then in "
        "force, shares of the gains since it; those since the last one come first."
    )


def claims(campaign: Campaign, verifications: Sequence[Verification]) -> Found:
    """What may be said of the gain: the verification of the head if there is one, and what the noise lets be seen."""
    found: Found = {"headline": "", "block": [], "sentences": []}
    say = found["sentences"].append
    verified, outlook = of_head(verifications, campaign.best), _outlook(campaign)
    if verified is not None:
        lines = block_lines(verified)
        found["headline"], found["block"] = lines[0], [line for line in lines[1:] if line]
        say("Baseline and head were measured anew, in turn and with fresh seeds, by `ark verify`: publish this number.")
    elif campaign.kept_since_baseline:
        luck = "" if outlook is not None and outlook.noise.none else ", so it may owe something to luck"
        say(f"The best value was kept because it looked good{luck}. {_VERIFY}")
        if verifications and verifications[-1].gain is not None:
            say(f"The last verification is of attempt {verifications[-1].head.attempt}, which is no longer the head.")
    elif campaign.attempts:
        since = "since the last baseline" if campaign.kept else "so far"
        say(f"Nothing was kept {since}, so there is no gain to claim.")
    if campaign.source != ARK:
        say(
            "These numbers are as their own log tells them: `ark` measured none of them and cannot say what the "
            "noise is."
        )
    elif outlook is not None:
        for sentence in _noise(outlook):
            say(sentence)
    return found


_VERIFY = "`ark verify` measures baseline and head anew, in turn: that is the number to publish."


def _outlook(campaign: Campaign) -> Outlook | None:
    """What is known of the noise of a run that `ark` measured."""
    if campaign.source != ARK or campaign.spec is None or campaign.best is None:
        return None
    return Outlook.of(campaign.spec, campaign.attempts, campaign.best, History(campaign.attempts))


def _noise(outlook: Outlook) -> list[str]:
    noise, decision = outlook.noise, outlook.spec.decision
    if not noise.freedom:
        return ["Nothing was measured twice, so nothing is known of the noise: a small gain may be luck."]
    if noise.none:
        return ["Repeated measurements never differed so far, so there was no luck to be had."]
    if not outlook.is_noisy:
        return []
    found = [
        f"The noise of one measurement, its standard deviation, is {outlook.amount(noise.sd)}, as known from "
        f"{noise.freedom} repeated measurement{'s' * (noise.freedom > 1)}."
    ]
    if decision.rule == "sequential":
        gain = outlook.gain
        if math.isinf(gain):
            found.append(f"With this noise no gain can be detected in {decision.max_runs} runs each.")
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
    shares = {
        a.number: share
        for stretch in _stretches(campaign)
        for a in stretch[1:]
        if a.verdict and a.outcome is Outcome.KEEP
        if (share := percent_of(a.verdict.gain, stretch[0].value)) is not None
    }
    by_name: dict[str, list[Attempt]] = {name: [] for name in campaign.agents}
    for attempt in campaign.tried:
        by_name.setdefault(attempt.proposal.agent, []).append(attempt)
    rows = [_cost_row(name, by_name[name], shares) for name in campaign.agents]
    if len(rows) > 1:
        rows.append({**_cost_row("all", campaign.tried, shares), "whole": True})
    return rows


def _cost_row(name: str, attempts: Sequence[Attempt], shares: Mapping[int, float]) -> Found:
    """`shares` are the gains by number, each in percent of the baseline then in force."""
    cost = sum((a.proposal.cost for a in attempts), Cost())
    kept = [a for a in attempts if a.outcome is Outcome.KEEP]
    share = sum(shares.get(a.number, 0.0) for a in kept)
    share = share if math.isfinite(share) else 0.0

    def known(kind: str, amount: str) -> str:
        return _known(attempts, kind, amount)

    return {
        "agent": name,
        "attempts": len(attempts),
        "kept": len(kept),
        "kept_percent": percent(100 * len(kept) / len(attempts)) if attempts else "",
        "crashes": sum(a.outcome is Outcome.CRASH for a in attempts),
        "gain": percent(share) if share else "",
        "thinking": known("seconds", duration(cost.seconds)) if cost.seconds else "",
        "measuring": duration(math.fsum(a.seconds for a in attempts)),
        "tokens": known("tokens", f"{cost.tokens:,}") if cost.tokens is not None else "",
        "money": known("money", money(cost.money)) if cost.money is not None else "",
        "money_per_percent": known("money", money(cost.money / share)) if cost.money and share > 0 else "",
        "whole": False,
    }


def kept_digits(campaign: Campaign) -> int:
    """Significant digits that tell kept values apart."""
    return digits(a.value for a in campaign.attempts if a.outcome is Outcome.KEEP)


def tree(campaign: Campaign) -> list[Found]:
    """The kept attempts in order, each with what was tried from it and did not stay."""
    width = kept_digits(campaign)
    spine: list[Found] = []
    by_commit: dict[str, Found] = {}
    for attempt in campaign.attempts:
        if attempt.outcome is Outcome.KEEP:
            node: Found = {"number": attempt.number, "title": attempt.proposal.title, "value": attempt.value}
            node["words"] = "" if attempt.value is None else f"{attempt.value:.{width}g}"
            node |= {"gain": attempt.verdict.gain if attempt.verdict else None, "tried": []}
            spine.append(node)
            if attempt.commit:
                by_commit[attempt.commit] = node
        elif spine:
            node = by_commit.get(attempt.parent, spine[-1])
            node["tried"].append({"number": attempt.number, "outcome": str(attempt.outcome)})
        else:
            spine.append({"number": None, "title": "", "value": None, "words": "", "gain": None, "tried": []})
            spine[-1]["tried"].append({"number": attempt.number, "outcome": str(attempt.outcome)})
    return spine
