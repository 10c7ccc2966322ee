"""A night in seconds: the whole of a run, with a scripted agent and a simulated measurement."""

from autoresearch_kit.rehearse.noise import Amount, read_amount
from autoresearch_kit.rehearse.rehearsal import Rehearsal, Summary, keep_texts, summary_lines

__all__ = ["Amount", "Rehearsal", "Summary", "keep_texts", "read_amount", "summary_lines"]
