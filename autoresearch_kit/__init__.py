"""Autonomous research loops that can be trusted: `ark` measures, decides and records outside the agent's reach."""

__version__ = "0.1.0"
