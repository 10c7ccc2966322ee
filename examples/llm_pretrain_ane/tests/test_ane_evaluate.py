"""evaluate: the loss of a checkpoint, from its bytes alone; no metric line for anything that is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ane_runs import HEADER, evaluate_program, refused, run, sealed, train, train_program
from ane_tokens import write_tokens


@pytest.fixture(scope="module")
def made() -> Path:
    return evaluate_program()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file and a checkpoint of a short training, whose own loss is in trainer.txt."""
    folder = tmp_path_factory.mktemp("trained")
    write_tokens(folder / "tokens.bin")
    result = train(train_program(), folder / "tokens.bin", folder / "model.ckpt", "--max-steps", 50)
    (folder / "trainer.txt").write_text(result["trainer_val_loss"])
    return folder


def evaluated(made: Path, checkpoint: Path, data: Path, *arguments: object) -> dict[str, str]:
    done = run(made, "--checkpoint", checkpoint, "--data", data, *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return dict(line.split(": ") for line in done.stdout.splitlines())


def test_agrees_with_the_trainer(made: Path, folder: Path) -> None:
    result = evaluated(made, folder / "model.ckpt", folder / "tokens.bin")
    assert list(result) == ["val_loss", "val_tokens", "parameters", "updates"]
    assert abs(float(result["val_loss"]) - float((folder / "trainer.txt").read_text())) < 2e-6
    assert (result["val_tokens"], result["updates"]) == ("992", "25")
    assert int(result["parameters"]) == 2 * (4 * 32 * 32 + 3 * 32 * 64 + 64) + 32 + 32000 * 32


def test_holdout_is_another_split(made: Path, folder: Path) -> None:
    validation = evaluated(made, folder / "model.ckpt", folder / "tokens.bin", "--split", "validation")
    holdout = evaluated(made, folder / "model.ckpt", folder / "tokens.bin", "--split", "holdout")
    assert list(holdout) == list(validation) and holdout["val_loss"] != validation["val_loss"]


def test_threads_agree_to_rounding(made: Path, folder: Path) -> None:
    losses = [
        float(evaluated(made, folder / "model.ckpt", folder / "tokens.bin", "--threads", n)["val_loss"])
        for n in (1, 2, 3)
    ]
    assert max(losses) - min(losses) < 5e-6


@pytest.mark.parametrize(
    "changes",
    [{"lion": 0}, {"vocab_compact": 0}, {"rope": 1}, {"softcap": 2.0}, {"max_act": 0.05}],
    ids=["adamw", "whole", "rope", "softcap", "max-act"],
)
def test_the_header_tells_what_the_model_computes(
    made: Path, folder: Path, tmp_path: Path, changes: dict[str, float]
) -> None:
    data, path = folder / "tokens.bin", tmp_path / "a"
    result = train(train_program(**changes), data, path, "--max-steps", 10)
    assert abs(float(evaluated(made, path, data)["val_loss"]) - float(result["trainer_val_loss"])) < 2e-6
    if "lion" not in changes and "vocab_compact" not in changes:
        name = next(iter(changes))
        path.write_bytes(sealed(path.read_bytes(), **{name: {"rope": 0, "softcap": 30.0, "max_act": 0.0}[name]}))
        assert abs(float(evaluated(made, path, data)["val_loss"]) - float(result["trainer_val_loss"])) > 1e-5


def test_an_untrained_model_knows_nothing(made: Path, folder: Path, tmp_path: Path) -> None:
    train(train_program(learning_rate=0.0, weight_decay=0.0), folder / "tokens.bin", tmp_path / "a", "--max-steps", 2)
    assert abs(float(evaluated(made, tmp_path / "a", folder / "tokens.bin")["val_loss"]) - np.log(48)) < 0.05


def test_a_file_with_one_id_has_the_loss_0(made: Path, tmp_path: Path) -> None:
    np.full(2000, 7, "<u2").tofile(tmp_path / "tokens.bin")
    for softcap in (30.0, 2.0, 0.3):
        result = train(train_program(softcap=softcap), tmp_path / "tokens.bin", tmp_path / "a", "--max-steps", 2)
        assert result["trainer_val_loss"] == result["train_loss"] == result["train_loss_last"] == "0.000000"
        assert evaluated(made, tmp_path / "a", tmp_path / "tokens.bin")["val_loss"] == "0.000000"


def test_what_is_wrong_is_a_sentence_without_a_metric(made: Path, folder: Path, tmp_path: Path) -> None:
    data, whole, path = folder / "tokens.bin", (folder / "model.ckpt").read_bytes(), tmp_path / "a"

    def sentence(tokens: Path = data) -> str:
        return refused(made, "--checkpoint", path, "--data", tokens)

    assert "No such file" in sentence()
    path.mkdir()
    assert "not a plain file" in sentence()
    path.rmdir()
    path.symlink_to(folder / "model.ckpt")
    assert "symbolic link" in sentence()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged: it has" in sentence()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert "its checksum is wrong" in sentence()
    path.write_bytes(sealed(whole, dim=1 << 20))
    assert "dim is 1048576" in sentence()
    path.write_bytes(sealed(whole, seq=512))
    assert "its validation split holds 1000 tokens, and a window needs 513" not in sentence(tmp_path / "none")
    path.write_bytes(sealed(whole, seq=1024))
    assert "its validation split holds 1000 tokens, and a window needs 1025" in sentence()
    path.write_bytes(whole[:300] + np.float32(np.nan).tobytes() + whole[304:])
    path.write_bytes(sealed(path.read_bytes()))
    assert "not finite" in sentence()
    path.write_bytes(
        whole[: HEADER.itemsize] + np.full(30000, 3e38, "<f4").tobytes() + whole[HEADER.itemsize + 120000 :]
    )
    path.write_bytes(sealed(path.read_bytes()))
    assert sentence().startswith("the loss of the checkpoint")
    path.write_bytes(whole)
    write_tokens(tmp_path / "other.bin", seed=9)
    assert "from another token file or tokenizer" in sentence(tmp_path / "other.bin")
    (tmp_path / "odd.bin").write_bytes(data.read_bytes() + b"x")
    assert "odd number of bytes" in sentence(tmp_path / "odd.bin")
    assert "No such file" in sentence(tmp_path / "none.bin")


def test_usage(made: Path, folder: Path) -> None:
    given = ("--checkpoint", folder / "model.ckpt", "--data", folder / "tokens.bin")
    assert (
        refused(made, *given, "--split", "train", code=2) == "--split is 'train', but it is one of validation|holdout"
    )
    assert refused(made, *given, "--wall-time", "3", code=2) == "'--wall-time' is no option of evaluate"
    assert refused(made, "--data", folder / "tokens.bin", code=2) == "evaluate needs --checkpoint FILE"


def test_a_full_standard_output_is_a_failure(made: Path, folder: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [made, "--checkpoint", folder / "model.ckpt", "--data", folder / "tokens.bin"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "cannot write to standard output\n"


@pytest.mark.slow
def test_clean_under_sanitizers(folder: Path, tmp_path: Path) -> None:
    made, data = evaluate_program(sanitize=True), folder / "tokens.bin"
    for threads in (1, 2):
        evaluated(made, folder / "model.ckpt", data, "--threads", threads)
    whole = (folder / "model.ckpt").read_bytes()
    for bad in (whole[:100], whole[:-1], sealed(whole, hidden=16384), sealed(whole, heads=1, kv_heads=1)):
        (tmp_path / "a").write_bytes(bad)
        if len(bad) < len(whole) or bad[32:72] != sealed(whole, heads=1, kv_heads=1)[32:72]:
            refused(made, "--checkpoint", tmp_path / "a", "--data", data)
        else:
            evaluated(made, tmp_path / "a", data)
