"""Texts from templates: the kit's, or a file of the same name beside the spec in its place.

A project's own template may build on the kit's, which are called `ark/NAME` here: `{% extends "ark/program.md.j2" %}`.
Templates see plain data only and run in Jinja's sandbox. Whatever is wrong with one is a single sentence that names
file and line, also when the mistake is in a file that it includes.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.loaders import split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line, number
from autoresearch_kit.data import data_folder

KIT = "ark/"


def has_own(name: str, folder: Path | None) -> bool:
    """Whether the project in `folder` has a template of that name."""
    return folder is not None and (folder / name).is_file()


def render(name: str, folder: Path | None, **values: object) -> str:
    """The text of the template `name`, the project's own if there is one in `folder`; ArkError for a mistake in it."""
    environment, loader = _environment(folder.absolute() if folder else None)
    own = has_own(name, folder)
    name = name if own else KIT + name
    try:
        if own:
            with contextlib.suppress(jinja2.TemplateError, RecursionError):  # of which rendering knows the line
                _blocks(environment, loader, name)
        return environment.get_template(name).render(**values)
    except Exception as error:  # a template can raise anything: a division by zero, a recursion without end
        place = loader.place(error)
        if not place and not isinstance(error, jinja2.TemplateError | RecursionError | SyntaxError):
            raise
        raise _explained(error, place or str(loader.path(name))) from None


def _explained(error: Exception, place: str) -> ArkError:
    if isinstance(error, jinja2.TemplateNotFound):
        kit = data_folder("templates")
        found = sorted(path.relative_to(kit).as_posix() for path in (*kit.glob("*.j2"), *kit.glob("domains/*.j2")))
        hint = f"the kit has {', '.join(KIT + name for name in found)}"
        return ArkError(f"{place}: there is no template `{clean_line(str(error.name), 100)}`", hint)
    text = clean_line(str(getattr(error, "message", None) or error), 300).rstrip(".")
    return ArkError(f"{place}: {text or type(error).__name__}")


def _blocks(environment: jinja2.Environment, loader: _Loader, name: str) -> set[str]:
    """The blocks of a template and of those that it extends; ArkError for one of its own that would go nowhere."""
    text, path, _ = loader.get_source(environment, name)
    tree = environment.parse(text, name, path)
    found = {block.name for block in tree.find_all(nodes.Block)}
    for parent in tree.body:
        if not isinstance(parent, nodes.Extends) or not isinstance(parent.template, nodes.Const):
            continue
        known = _blocks(environment, loader, str(parent.template.value))
        for block in _outermost(tree):
            if block.name not in known:
                text = f"`{parent.template.value}` has no block `{block.name}` that could be filled"
                raise ArkError(f"{path}:{block.lineno}: {text}", f"it has {', '.join(sorted(known))}")
        found |= known
    return found


def _outermost(node: nodes.Node) -> Iterator[nodes.Block]:
    """The blocks in no other block: of a template that extends another, only these must have a place there."""
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.Block):
            yield child
        else:
            yield from _outermost(child)


class _Undefined(jinja2.StrictUndefined):
    """An error as soon as it is used, in words of a spec instead of Python's."""

    @property
    def _undefined_message(self) -> str:
        keys = self._undefined_obj
        if self._undefined_hint or not isinstance(keys, Mapping):
            return super()._undefined_message
        whose = "the spec has" if "mutable_files" in keys else "there is"
        near = difflib.get_close_matches(str(self._undefined_name), keys, n=1)
        return f"{whose} no key `{self._undefined_name}`" + (f"; did you mean `{near[0]}`?" if near else "")


class _Loader(jinja2.BaseLoader):
    """Finds `ark/NAME` among the kit's templates and anything else in the project's folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._loaded: set[str] = set()

    def path(self, template: str) -> Path:
        """Where a template is, or would be; TemplateNotFound for a name that leads out of its folder."""
        root = data_folder("templates") if template.startswith(KIT) else self._folder
        if root is None or "\0" in template:
            raise jinja2.TemplateNotFound(template)
        return root.joinpath(*split_template_path(template.removeprefix(KIT)))

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        path = self.path(template)
        self._loaded.add(str(path))
        try:
            stamp = path.stat().st_mtime_ns
            data = path.read_bytes()
        except FileNotFoundError:
            raise jinja2.TemplateNotFound(template) from None
        except OSError as error:
            raise jinja2.TemplateSyntaxError(f"cannot be read: {error.strerror}", 1, template, str(path)) from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise jinja2.TemplateSyntaxError("the file is not UTF-8", line, template, str(path)) from None
        return text, str(path), lambda: path.stat().st_mtime_ns == stamp

    def place(self, error: Exception) -> str:
        """`FILE:LINE` of the mistake, from the innermost template on the way to it; empty when there was none."""
        if isinstance(error, jinja2.TemplateSyntaxError):
            return f"{error.filename}:{error.lineno}"
        place, trace = "", error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            place = f"{file}:{trace.tb_lineno}" if file in self._loaded else place
            trace = trace.tb_next
        return place


@functools.lru_cache(maxsize=16)
def _environment(folder: Path | None) -> tuple[jinja2.Environment, _Loader]:
    loader = _Loader(folder)
    environment = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=_Undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown for an agent, not HTML
    )
    environment.filters["number"] = number
    environment.filters["minutes"] = _minutes
    environment.filters["block"] = _block
    environment.filters["shell"] = shlex.quote
    return environment, loader


def _minutes(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"


def _block(text: str) -> str:
    """Text as a code block that nothing in it can close: every line indented."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").split("\n"))
