"""Whoever proposes a change: any command, and the search program that needs no model."""
