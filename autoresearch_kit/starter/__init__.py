"""New projects for `ark init`: from a template, or around code that is there."""

from autoresearch_kit.starter.catalog import BLANK, describe, find_template, templates
from autoresearch_kit.starter.guess import ENVIRONMENTS, Own, guess, needed
from autoresearch_kit.starter.make import Started, refuse_place, refuse_what_is_there, start_own, start_project
from autoresearch_kit.starter.text import blank_spec, complete, yaml_value

__all__ = [
    "BLANK",
    "ENVIRONMENTS",
    "Own",
    "Started",
    "blank_spec",
    "complete",
    "describe",
    "find_template",
    "guess",
    "needed",
    "refuse_place",
    "refuse_what_is_there",
    "start_own",
    "start_project",
    "templates",
    "yaml_value",
]
