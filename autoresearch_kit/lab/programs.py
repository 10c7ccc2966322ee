"""Which programs a shell line starts, as far as a look at its words can tell, and which of them are not here."""

from __future__ import annotations

import re
import shlex
import shutil

BUILTINS = frozenset(
    [
        ".",
        ":",
        "[",
        "alias",
        "cd",
        "command",
        "echo",
        "eval",
        "exec",
        "exit",
        "export",
        "false",
        "kill",
        "printf",
        "pwd",
        "read",
        "set",
        "shift",
    ]
)
BUILTINS |= frozenset(["source", "test", "time", "trap", "true", "type", "ulimit", "umask", "unset", "wait"])
# Whoever writes functions, loops or here-documents knows what is installed: there nothing is looked at.
_BEYOND_US = re.compile(r"[(){}`\n]|<<|\$\(|(^|[;&|\s])(if|for|while|until|case|function|!)\s")


def missing_programs(line: str) -> list[str]:
    """Programs of a shell line that are not on PATH. One given as a path may be what the line builds first."""
    return [word for word in programs(line) if "/" not in word and shutil.which(word) is None]


def programs(line: str) -> list[str]:
    """The first word of each simple command, without builtins, assignments and what a variable decides."""
    if _BEYOND_US.search(line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        return []
    found, first, skip = [], True, False
    for word in words:
        if word and set(word) <= set(";|&"):
            first = True
        elif word and set(word) <= set("<>&|"):
            skip = True
        elif skip:
            skip = False
        elif first and not re.match(r"[A-Za-z_]\w*=", word) and not word.isdigit():
            first = False
            if "$" not in word and word not in BUILTINS:
                found.append(word)
    return found
