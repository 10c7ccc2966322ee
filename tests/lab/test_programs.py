"""Which programs a shell line is seen to start.

.venv/bin/pytest tests/lab/test_programs.py
"""

from __future__ import annotations

import pytest

from autoresearch_kit.lab.programs import missing_programs, programs


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python train.py > run.log 2>&1", ["python"]),
        ("grep '^val_bpb:' run.log", ["grep"]),
        ("sh build.sh && build/harness build/worker", ["sh", "build/harness"]),
        ("A=1 B='x y' make -j2; ./run | tee log || echo no", ["make", "./run", "tee"]),
        ("echo >> solution.py; mkdir -p .ark; echo 'Größer' > .ark/attempt.md", ["mkdir"]),
        ('sed -i.old "s/^DEGREE = .*/DEGREE = $((ARK_ATTEMPT + 2))/" train.py; echo x', []),
        ("for i in 1 2; do train $i; done", []),
        ("$AGENT --once", []),
        ("cd sub && 2>/dev/null nice -n 5 train", ["nice"]),
        ("echo 'unbalanced", []),
        ("", []),
    ],
)
def test_the_first_word_of_each_command(line, found):
    assert programs(line) == found


def test_only_what_is_not_on_path_is_missing():
    assert missing_programs("sh x.sh && no-such-program && ./not/built/yet") == ["no-such-program"]
