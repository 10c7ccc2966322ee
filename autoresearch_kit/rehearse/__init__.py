"""A night in seconds: the whole of a run, with a scripted agent and a simulated measurement."""

from autoresearch_kit.rehearse.noise import Amount, read_amount
from autoresearch_kit.rehearse.rehearsal import Keepsakes, Rehearsal, Summary, summary_lines

__all__ = ["Amount", "Keepsakes", "Rehearsal", "Summary", "read_amount", "summary_lines"]
