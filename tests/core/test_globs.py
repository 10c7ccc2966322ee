"""python -m pytest tests/core/test_globs.py"""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_kit.core.globs import compile_globs, is_glob


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("train.py", "train.py", "train.pyc a/train.py train_py Train.py train.py/x"),
        ("*.py", "a.py .a.py .py", "a/b.py a.pyc"),
        ("src/*", "src/a src/.a", "src src/a/b xsrc/a"),
        ("src/", "src/a src/a/b", "src src2/a a/src/b"),
        ("src/**", "src/a src/a/b", "src src2"),
        ("**", "a a/b", ""),
        ("**/*.py", "a.py b/a.py b/c/a.py", "a.txt a.py/b"),
        ("src/**/a.py", "src/a.py src/b/a.py src/b/c/a.py", "a.py src/ba.py src/b/xa.py"),
        ("a/**/b/**/c", "a/b/c a/x/b/c a/b/b/x/y/c a/x/b/y/b/c", "a/c a/x/c b/c"),
        ("a/**/**/b", "a/b a/x/b a/x/y/b", "ab a/xb"),
        ("**/b/", "b/x a/b/x a/b/c/d", "b a/b bb/x"),
        ("a**b", "ab axxb", "a/b ax/xb"),
        ("a?c", "abc a.c", "ac a/c abbc"),
        ("[ab]x", "ax bx", "cx [ab]x abx"),
        ("[!ab]x", "cx !x", "ax /x"),
        ("[a-c]x", "ax cx", "dx -x"),
        ("[]a]x", "]x ax", "bx"),
        ("[*]", "*", "a"),
        ("[^a]", "^ a", "b"),
        ("[z-a]", "", "z a -"),
        ("[ab", "[ab", "a b"),
        ("x[!-0]y", "xay", "x-y x0y x/y"),
        ("a+(b).py", "a+(b).py", "aab.py"),
        ("*a*b*", "ab xaxbx", "ba a/b"),
    ],
)
def test_matches(pattern: str, yes: str, no: str) -> None:
    matcher = compile_globs([pattern])
    assert [path for path in yes.split() if not matcher.matches(path)] == []
    assert [path for path in no.split() if matcher.matches(path)] == []


def test_several_patterns() -> None:
    matcher = compile_globs(["train.py", "src/", "src/a/*.py", "lib/x/*.c", "lib/y/z.c"])
    assert matcher.matches("train.py") and matcher.matches("src/q") and not matcher.matches("train.pysrc/q")
    assert matcher.literals == ("train.py", "lib/y/z.c")
    assert matcher.roots == ("",)
    assert compile_globs(["src/", "src/a/*.py", "lib/x/*.c", "lib/y/z.c", "src2/a"]).roots == (
        "lib/x",
        "lib/y",
        "src",
        "src2",
    )
    assert compile_globs(["a/**/b/c.py", "[a]/b/c"]).roots == ("",)
    assert not compile_globs([]).matches("") and compile_globs([]).roots == ()


def test_is_glob() -> None:
    assert [p for p in ("a.py", "a/b", "a/", "*.py", "a?", "[a]") if is_glob(p)] == ["a/", "*.py", "a?", "[a]"]


def test_no_path_makes_it_slow() -> None:
    assert not compile_globs(["*a*a*a*a*a*a*b"]).matches("a" * 4000)
    assert not compile_globs(["**/a/**/a/**/a/**/a/**/b"]).matches("a/" * 2000 + "c")


NAMES = st.text(st.sampled_from("ab.-!^[]*?\\\n"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=300)
@given(NAMES, NAMES)
def test_one_component_is_fnmatch(pattern: str, name: str) -> None:
    if "**" not in pattern:
        assert compile_globs([pattern]).matches(name) == fnmatch.fnmatchcase(name, pattern)


PARTS = st.lists(st.sampled_from(["a", "b", "*", "**", "a*"]), min_size=1, max_size=5)


def slow(pattern: list[str], path: list[str]) -> bool:
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        rest = pattern[1:] or ["*"]
        return slow(rest, path) or slow(pattern, path[1:])
    return fnmatch.fnmatchcase(path[0], pattern[0]) and slow(pattern[1:], path[1:])


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(PARTS, st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6))
def test_components_agree_with_the_slow_rule(pattern: list[str], path: list[str]) -> None:
    matcher = compile_globs(["/".join(pattern)])
    found = matcher.matches("/".join(path))
    assert found == slow(pattern, path)
    if found:
        assert any(not root or "/".join(path).startswith(root + "/") for root in matcher.roots)
