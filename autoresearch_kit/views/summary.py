"""A run in numbers, as plain data: what `ark status`, `log` and `show` print, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoresearch_kit.core.entry import gain_percent, gain_words, log_entry
from autoresearch_kit.core.records import Attempt, Cost, Outcome, clean_line, number
from autoresearch_kit.core.words import apart
from autoresearch_kit.ledger.ledger import Ledger, baseline_of, last_kept

if TYPE_CHECKING:
    from autoresearch_kit.project import Project


def status(project: Project, ledger: Ledger, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The state of a run. `attempts` is the sum of the other counts: closed ones, baselines not among them."""
    tried = [a for a in attempts if a.is_tried]
    first, head = baseline_of(attempts), last_kept(attempts)
    running = next((a.number for a in attempts if a.outcome is Outcome.RUNNING), None)
    best = head.value if head else None
    return {
        "tag": ledger.tag,
        "branch": ledger.branch,
        "head": head.commit if head else None,
        "metric": project.spec.metric,
        "direction": project.spec.metric_direction,
        "baseline": first.value if first else None,
        "best": best,
        "best_attempt": head.number if head else None,
        "gain_percent": gain_percent(first.value if first else None, best, project.spec.maximize),
        "attempts": len(tried),
        "kept": sum(a.outcome is Outcome.KEEP for a in tried),
        "discarded": sum(a.outcome is Outcome.DISCARD for a in tried),
        "crashes": sum(a.outcome is Outcome.CRASH for a in tried),
        "lost": sum(a.outcome is Outcome.LOST for a in tried),
        "running": ledger.lock().is_held(),
        "running_attempt": running,
        "started": attempts[0].started if attempts else None,
        "last_started": attempts[-1].started if attempts else None,
        "machine": head.machine if head else None,
        "noise": head.verdict.noise if head and head.verdict else None,
    }


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """`status` for a person."""
    state = "running" if found["running"] else "not running"
    attempt = (
        f", at attempt {found['running_attempt']}" if found["running"] and found["running_attempt"] is not None else ""
    )
    being = ""
    if found["running_attempt"] is not None:
        open_words = f"attempt {found['running_attempt']} was left while it was measured"
        being = "; 1 running" if found["running"] else f"; {open_words}"
    words = gain_words(found["baseline"], found["best"], found["direction"] == "maximize")
    lines = [
        f"run {found['tag']}, {state}{attempt}",
        f"  branch    {found['branch']} at {(found['head'] or 'nothing yet')[:10]}",
        f"  attempts  {found['attempts']}: {found['kept']} kept, {found['discarded']} discarded, "
        f"{found['crashes']} crashed, {found['lost']} lost{being}",
    ]
    if found["baseline"] is not None:
        lines.append(
            f"  {found['metric']}  {apart(found['baseline'], found['best'])} -> "
            f"{apart(found['best'], found['baseline'])} ({found['direction']}; {words})"
        )
    if found["kept"] and found["noise"]:
        lines.append("  publish   not that gain, which was kept because it looked good, but what `ark verify` measures")
    return lines


def full_entry(attempt: Attempt, diff: str) -> dict[str, Any]:
    """One attempt with everything that the ledger holds of it."""
    return {
        **log_entry(attempt),
        "why": attempt.proposal.why,
        "tree": attempt.tree,
        "yardstick": attempt.yardstick,
        "machine": attempt.machine,
        "measurements": [
            {
                "value": m.value,
                "problem": m.problem,
                "seconds": m.seconds,
                "seed": m.seed,
                "of_head": m.of_head,
                "also": dict(m.also),
            }
            for m in attempt.measurements
        ],
        "log_tail": _log_tail(attempt),
        "diff": diff,
    }


def _log_tail(attempt: Attempt) -> str:
    return next((m.log_tail for m in reversed(attempt.measurements) if m.log_tail), "")


def _cost_words(cost: Cost) -> str:
    """What the agent's turn cost, as far as is known; empty when nothing is."""
    words = [f"{cost.seconds:.1f} s"] if cost.seconds else []
    words += [f"{cost.tokens:,} tokens"] if cost.tokens is not None else []
    words += [f"{cost.money:.4g} in money"] if cost.money is not None else []
    return ", ".join(words)


def show_lines(attempt: Attempt, diff: str) -> list[str]:
    """One attempt for a person."""
    lines = [f"attempt {attempt.number}: {attempt.proposal.title}"]
    if attempt.proposal.why:
        lines += ["", *attempt.proposal.why.split("\n")]
    lines += ["", attempt.verdict.reason if attempt.verdict else "Running", ""]
    lines.append(f"commit   {attempt.commit}")
    lines.append(f"parent   {attempt.parent}")
    agent = attempt.proposal.agent.removeprefix("by ")  # such as `by hand`
    lines.append(f"started  {attempt.started} by {agent}, measured in {attempt.seconds:.1f} s")
    if attempt.proposal.origin:
        lines.append(f"from     {', '.join(attempt.proposal.origin)}")
    if cost := _cost_words(attempt.proposal.cost):
        lines.append(f"cost     {cost}")
    lines.append(f"machine  {attempt.machine}")
    if len(attempt.measurements) > 1:
        whose = {False: "head" if attempt.is_baseline else "candidate", True: "head"}
        lines.append("samples")
        lines += [f"  {whose[m.of_head]:<9}  {m.problem or number(m.value or 0.0)}" for m in attempt.measurements]
    lines += [f"{clean_line(name, 200):<24} {number(value)}" for name, value in attempt.also.items()]
    tail = _log_tail(attempt)
    if tail:
        lines += ["", "The end of its log:", "", *("    " + line for line in tail.split("\n"))]
    return [*lines, "", *diff.rstrip("\n").split("\n")]
