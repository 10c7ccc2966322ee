"""Apple's command line tools bring Python 3.9: the example's programs run with it."""

from __future__ import annotations

import subprocess

from ane_example import failed


def test_a_cycle_and_its_checkpoint(example, old_python):
    example.python = old_python
    code, output, errors = example.run("--lineage", "lineage")
    assert code == 0 and "val_loss:         2.431999\n" in output and errors.startswith("notice: training from scratch")
    assert example.run("keep", "--lineage", "lineage")[0] == 0
    assert "notice: resuming lineage/kept.ckpt\n" in example.run("train", "--lineage", "lineage")[2]
    example.header.write_text(example.header.read_text() + "#define DIM 64\n")
    failed(example.run(), 2, "ane/experiment_config.h:[0-9]+: .*DIM")


def test_tokens(example, old_python):
    for words in (
        ["synthetic", "--tokens", "520000", "--ids", "200", "--out", "tokens"],
        ["verify", "tokens"],
        ["--help"],
    ):
        done = subprocess.run(
            [old_python, "prepare.py", *words],
            cwd=example.folder,
            env=example.environment,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
