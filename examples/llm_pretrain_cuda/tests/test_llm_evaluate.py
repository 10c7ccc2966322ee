"""evaluate.py: the number is the one a textbook gives, and models that cheat get none.

    pytest examples/llm_pretrain_cuda/tests/test_llm_evaluate.py          what can be judged in one process
    pytest examples/llm_pretrain_cuda/tests/test_llm_evaluate.py -m ''    and the command line on real data

Each cheat is a module, exported like any model. Seeds are fixed here, so that a test that passes passes again; where a
cheat is caught by luck, the test says with which probability it would escape.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_modules import EXAMPLE, load
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

evaluate, graph, reading = load("evaluate"), load("graph"), load("data")
EvaluationError = evaluate.EvaluationError

V, T, B = 12, 32, 4
BOS = V - 1
BYTES = np.array([1, 1, 2, 2, 3, 3, 1, 4, 5, 6, 2, 0], np.int32)


pytestmark = pytest.mark.usefixtures("one_thread")


def chain() -> np.ndarray:
    """Transition probabilities [V, V]: a language of bigrams, which knows no BOS after a token."""
    table = np.random.default_rng(5).dirichlet(np.full(V, 0.3), V)
    table[:, BOS] = 0
    return table / table.sum(1, keepdims=True)


def language(n: int, length: int = T, seed: int = 6) -> np.ndarray:
    """Rows [n, length + 1] of that language, each from BOS, and a document that ends now and then."""
    rng, table = np.random.default_rng(seed), chain()
    rows = np.full((n, length + 1), BOS, np.uint16)
    for row in rows:
        for i in range(1, length + 1):
            row[i] = BOS if rng.random() < 0.02 else rng.choice(V, p=table[row[i - 1]])
    return rows


ROWS = language(90)


class Table(nn.Module):
    """Logits by the last token alone: the bigrams of the language, smoothed."""

    def __init__(self, logits=None) -> None:
        super().__init__()
        logits = np.log(0.97 * chain() + 0.03 / V) if logits is None else logits
        self.table = nn.Embedding.from_pretrained(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, tokens):
        return self.table(tokens)


def judged(model: nn.Module, rows: np.ndarray = ROWS, batch_rows: int = B, seed: int = 0, probes: int | None = None):
    traced = graph.trace(model, batch_rows, rows.shape[1] - 1)
    return evaluate.judge(traced, reading.Rows([rows]), BYTES, np.random.default_rng(seed), probes)


def bpb(found) -> float:
    return reading.bits_per_byte(found.nats, found.n_bytes)


# ---- the number ------------------------------------------------------------------------------------------------------


def test_bits_per_byte_of_a_case_by_hand():
    # Logits are logs of probabilities with small denominators; the third target is BOS and counts nothing.
    p = np.full((V, V), 1e-9)
    p[BOS, 0], p[0, 4], p[4, BOS], p[BOS, 7] = 1 / 2, 1 / 8, 1 / 3, 1 / 4
    p[:, 1] += 1 - p.sum(1)
    rows = np.array([[BOS, 0, 4, BOS, 7]], np.uint16)
    found = judged(Table(np.log(p)), rows, batch_rows=1)
    # 1 bit for a token of 1 byte, 3 bits for one of 3 bytes, 2 bits for one of 4 bytes.
    assert (found.n_bytes, found.n_tokens) == (8, 3)
    assert bpb(found) == pytest.approx((1 + 3 + 2) / 8, abs=1e-6)


def test_a_uniform_model_pays_log2_v_for_each_token():
    found = judged(Table(np.zeros((V, V))))
    assert bpb(found) == pytest.approx(math.log2(V) * found.n_tokens / found.n_bytes, rel=1e-6)


def test_the_table_of_the_language_pays_what_numpy_says():
    model = Table()
    logits = model.table.weight.numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    x, y = ROWS[:, :-1], ROWS[:, 1:]
    found = judged(model)
    assert found.nats == pytest.approx(-log_p[x, y][y != BOS].sum(), rel=1e-6)
    assert found.n_bytes == BYTES[y].sum()
    assert found.n_tokens == (y != BOS).sum()


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 89, 90, 91, 200])
def test_every_row_counts_once_whatever_the_batch(batch_rows):
    expected = judged(Table(), batch_rows=B)
    found = judged(Table(), batch_rows=batch_rows)
    assert (found.n_bytes, found.n_tokens) == (expected.n_bytes, expected.n_tokens)
    assert found.nats == pytest.approx(expected.nats, rel=1e-9)
    assert found.probes >= 200


@pytest.mark.parametrize("level", [-1e30, -1e8, 1e8, 1e30])
def test_the_level_of_logits_buys_nothing(level):
    # log-sum-exp minus logit would be 0 here, the loss of an oracle: 1e8 + ln 12 is 1e8 in float32.
    found = judged(Table(np.full((V, V), level)))
    assert found.nats == pytest.approx(math.log(V) * found.n_tokens, rel=1e-6)


def test_huge_logits_are_paid_for():
    class Loud(Table):
        def forward(self, tokens):
            return super().forward(tokens) * 1e6

    assert bpb(judged(Loud())) > 1000


def test_a_model_may_rule_out_what_never_comes():
    class Masked(Table):
        def forward(self, tokens):
            return super().forward(tokens).masked_fill(torch.arange(V) == BOS, float("-inf"))

    # BOS is no target that counts, so nothing is lost by it.
    assert judged(Masked()).nats < judged(Table()).nats


def test_half_precision_logits_are_judged_in_single_precision():
    class Half(Table):
        def forward(self, tokens):
            return super().forward(tokens).bfloat16()

    assert bpb(judged(Half())) == pytest.approx(bpb(judged(Table())), rel=1e-2)


def test_every_row_is_compared_and_more_on_demand():
    assert judged(Table(), batch_rows=16, probes=1).probes >= len(ROWS)  # two passes, with other bystanders
    assert 400 <= judged(Table(), probes=400).probes < 400 + B
    many = np.tile(ROWS, (30, 1))
    assert judged(Table(), many, batch_rows=90).probes == len(many) * 79 // 90  # one pass, 11 rows of 90 stand by


# ---- models that are what they say ----------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, causal: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(V, 32), nn.Parameter(torch.randn(T, 32))
        self.qkv, self.head, self.causal, self.dtype = nn.Linear(32, 96), nn.Linear(32, V), causal, dtype

    def forward(self, tokens):
        x = F.rms_norm(self.embedding(tokens) + self.position, (32,)).to(self.dtype)
        b, t, _ = x.shape
        qkv = F.linear(x, self.qkv.weight.to(self.dtype))
        q, k, v = qkv.view(b, t, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.head((x + y.transpose(1, 2).reshape(b, t, 32)).float())


class Fourier(Attention):
    """A long convolution: each output is a sum over past tokens, computed with the future in the same transform."""

    def forward(self, tokens):
        x = self.embedding(tokens)
        spectrum = torch.fft.rfft(x, 2 * T, dim=1) * torch.fft.rfft(self.position, 2 * T, dim=0)
        return self.head(torch.fft.irfft(spectrum, 2 * T, dim=1)[:, :T])


class Mixture(Attention):
    def forward(self, tokens):
        x = self.embedding(tokens)
        weight, chosen = x[..., :4].topk(2, -1)
        outputs = torch.stack([x.roll(i, -1).relu() for i in range(4)], 2)
        picked = outputs.gather(2, chosen[..., None].expand(-1, -1, -1, 32))
        return self.head((weight.softmax(-1)[..., None] * picked).sum(2) + F.pad(x, (0, 0, 1, 0))[:, :-1])


@pytest.mark.parametrize(
    "model",
    [lambda: Attention(), lambda: Attention(dtype=torch.bfloat16), Fourier, Mixture],
    ids=["attention", "half attention", "Fourier", "mixture"],
)
def test_causal_models_get_their_number(model):
    torch.manual_seed(1)
    assert judged(model(), probes=400).nats > 0


# ---- models that look where they must not ---------------------------------------------------------------------------


def next_tokens(tokens):
    """The token after each; after the last one, which cannot be seen, the first."""
    return tokens.roll(-1, 1)


class Cheat(Table):
    """The table, and for the next token a bonus where `where` is true."""

    bonus = 8.0

    def where(self, tokens):
        return torch.ones_like(tokens, dtype=torch.bool)

    def forward(self, tokens):
        seen = self.where(tokens) & (torch.arange(tokens.shape[1]) < tokens.shape[1] - 1)
        return super().forward(tokens) + self.bonus * F.one_hot(next_tokens(tokens), V) * seen[..., None]


class EveryFiftieth(Cheat):
    def where(self, tokens):
        return ((torch.arange(tokens.shape[1]) + 17 * torch.arange(len(tokens))[:, None]) % 50 == 7).expand_as(tokens)


class EvenRows(Cheat):
    def where(self, tokens):
        return (tokens[:, 1:2] % 2 == 0).expand_as(tokens)


class RealText(Cheat):
    """Peeks only while all that it sees of the row is text: no pair of tokens that the language has not."""

    def where(self, tokens):
        odd = self.table(tokens).gather(-1, next_tokens(tokens)[..., None])[..., 0] < -4.5
        return (odd[:, :-1].sum(1, keepdim=True) < 2).expand_as(tokens)


class WherePlausible(Cheat):
    """Peeks only at tokens that it would have called likely, as no random token is."""

    def where(self, tokens):
        return self.table(tokens).gather(-1, next_tokens(tokens)[..., None])[..., 0] > -1.5


class WhereDear(Cheat):
    """Peeks only where it would have paid most."""

    def where(self, tokens):
        return self.table(tokens).gather(-1, next_tokens(tokens)[..., None])[..., 0] < -3


class SomeBatches(Cheat):
    def where(self, tokens):
        return (tokens[0, 5] == 3).expand_as(tokens)


class OneRowInMany(Cheat):
    """Peeks all along the few rows that it knows by a fingerprint."""

    def where(self, tokens):
        return ((tokens[:, 2:9] * torch.arange(1, 8)).sum(1, keepdim=True) % 23 == 4).expand_as(tokens)


class OneBatchInMany(Cheat):
    """Peeks all along the batches that it knows by a fingerprint."""

    def where(self, tokens):
        return ((tokens.sum() * 77 >> 2) % 9 == 0).expand_as(tokens)


class Whisper(Cheat):
    """A peek at every position, too small to tell from rounding: only the mean over many cuts shows it."""

    bonus = 5e-4


class FarAhead(Table):
    def forward(self, tokens):
        return super().forward(tokens) + F.one_hot(tokens[:, -1:], V)


class WholeRowMean(Table):
    def forward(self, tokens):
        logits = super().forward(tokens)
        return logits - 0.5 * logits.mean(1, keepdim=True)


class Neighbour(Table):
    def forward(self, tokens):
        return super().forward(tokens) + F.one_hot(tokens.roll(-1, 0), V)


class NeighbourStart(Table):
    def forward(self, tokens):
        return super().forward(tokens) + F.one_hot(tokens.roll(-1, 0)[:, 1:2], V)


class BatchStatistics(Table):
    def forward(self, tokens):
        return super().forward(tokens) - 0.5 * super().forward(tokens).mean((0, 1))


class TwoWays(Attention):
    def __init__(self) -> None:
        super().__init__(causal=False)


class NanOnRandomText(Table):
    """Falls silent when the text is not real: a comparison with NaN must not pass."""

    def forward(self, tokens):
        odd = (self.table(tokens).gather(-1, next_tokens(tokens)[..., None])[..., 0] < -4.5).sum(1) > 8
        return super().forward(tokens) + torch.where(odd, float("nan"), 0.0)[:, None, None]


# With the least share of passes, of three rows each, that must catch it. 256 probes are 86 passes: a share of 0.06
# leaves an escape of (1 - 0.06)^86 = 0.5 %, one of 0.12 an escape of 0.002 %.
CHEATS = {
    Cheat: 0.95, EveryFiftieth: 0.06, EvenRows: 0.12, RealText: 0.8, WherePlausible: 0.8, WhereDear: 0.8,
    SomeBatches: 0.12, FarAhead: 0.95, WholeRowMean: 0.95, Neighbour: 0.95, NeighbourStart: 0.95,
    BatchStatistics: 0.95, NanOnRandomText: 0.5, TwoWays: 0.95,
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught(cheat, monkeypatch):
    with pytest.raises(EvaluationError, match=r"the model sees what it must not: .* of row \d+.*\nhint: "):
        judged(cheat())
    # How sure that was: let everything pass, and count.
    real, caught = evaluate.differences, []

    def differences(*given):
        found = real(*given)
        caught.append(not bool((found <= evaluate.TOLERANCE).all()))
        return torch.zeros_like(found)

    monkeypatch.setattr(evaluate, "differences", differences)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    judged(cheat(), seed=1, probes=450)
    assert np.mean(caught) >= CHEATS[cheat]


@pytest.mark.parametrize("cheat", [OneRowInMany, OneBatchInMany])
def test_whoever_peeks_in_whole_rows_never_gains_by_it(cheat, monkeypatch):
    """Any share of the batches that is not looked at a second time is worth a cheat's while."""
    honest, gained = judged(Table()).nats, 0
    for seed in range(12):
        with monkeypatch.context() as blind:
            blind.setattr(evaluate, "TOLERANCE", math.inf)
            blind.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
            if judged(cheat(), seed=seed).nats > 0.999 * honest:
                continue
        gained += 1
        with pytest.raises(EvaluationError, match="the model sees what it must not"):
            judged(cheat(), seed=seed)
    assert gained > 3


def test_what_whispers_is_heard_in_the_mean():
    with pytest.raises(EvaluationError, match=r"replaced futures cost 0\.000[345]\d+ nats per token on average"):
        judged(Whisper())


def test_a_cheat_pays_less_which_is_why_it_must_be_caught(monkeypatch):
    monkeypatch.setattr(evaluate, "TOLERANCE", math.inf)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    honest = bpb(judged(Table()))
    assert bpb(judged(Cheat())) < 0.2 * honest
    assert bpb(judged(EveryFiftieth())) < honest - 0.005


def test_half_of_the_cuts_are_where_a_peek_would_pay():
    losses = np.full((4000, T), 2.0)
    losses[:, 7] = 0.1
    cuts = evaluate.draw_cuts(losses, np.full((4000, T), 2.0), np.random.default_rng(0))
    assert 0.48 < (cuts == 7).mean() < 0.56
    others = np.bincount(cuts, minlength=T)[[i for i in range(T - 1) if i != 7]]
    assert others.min() > 30
    assert cuts.max() == T - 2  # what follows the last input is seen by nobody


def test_cuts_are_anywhere_where_no_peek_would_pay():
    cuts = evaluate.draw_cuts(np.full((3000, 3), 2.0), np.ones((3000, 3)), np.random.default_rng(0))
    assert set(cuts) == {0, 1}
    assert set(evaluate.draw_cuts(np.ones((5, 1)), np.ones((5, 1)), np.random.default_rng(0))) == {0}


# ---- logits that give no number --------------------------------------------------------------------------------------


class Spoilt(Table):
    """One value of one logit is replaced: where the token is 3, of the token `at`."""

    def __init__(self, value: float, at: int) -> None:
        super().__init__()
        self.value, self.at = value, at

    def forward(self, tokens):
        return super().forward(tokens).masked_fill((tokens == 3)[..., None] & (torch.arange(V) == self.at), self.value)


@pytest.mark.parametrize(
    ("value", "at", "says"),
    [
        (math.nan, 0, "hold NaN or infinity"),
        (math.nan, BOS, "hold NaN or infinity"),
        (math.inf, 0, "hold NaN or infinity"),
        (math.inf, int(ROWS[0][np.flatnonzero(ROWS[0] == 3)[0] + 1]), "hold NaN or infinity"),
        (-math.inf, int(ROWS[0][np.flatnonzero(ROWS[0] == 3)[0] + 1]), "rules out the true token of row"),
    ],
)
def test_one_logit_that_is_no_number_is_a_crash_with_its_place(value, at, says):
    with pytest.raises(EvaluationError, match=rf"{says}.*\nhint: keep logits finite") as error:
        judged(Spoilt(value, at))
    row, position = map(int, re.search(r"row (\d+) at position (\d+)", str(error.value)).groups())
    assert ROWS[row, position] == 3


def test_half_precision_that_overflows_is_a_crash():
    class Overflow(Table):
        def forward(self, tokens):
            return (super().forward(tokens).half() * 60000).float()

    with pytest.raises(EvaluationError, match=r"NaN or infinity|rules out"):
        judged(Overflow())


def test_nothing_but_minus_infinity_is_a_crash():
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        judged(Table(np.full((V, V), -np.inf)))


def test_rows_without_text_are_a_crash():
    with pytest.raises(EvaluationError, match="no row of this split holds text"):
        judged(Table(), np.full((4, T + 1), BOS, np.uint16))


# ---- the command, on real data ---------------------------------------------------------------------------------------

slow = pytest.mark.slow
LENGTH, VOCABULARY = 64, 320


class Little(nn.Module):
    """A transformer of one layer."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 64) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position
        b, t, width = x.shape
        q, k, v = self.qkv(F.rms_norm(x, (width,))).view(b, t, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind()
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width))
        x = x + self.down(F.relu(self.up(F.rms_norm(x, (width,)))).square())
        return self.head(F.rms_norm(x, (width,)))


class Data:
    """A folder of data, the data set in it, and a model trained on it with its loss as training sees it."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.model = folder / "cache", folder / "model.safetensors"
        subprocess.run(
            [
                *(sys.executable, EXAMPLE / "prepare.py", "synthetic", "--name", "stories", "--cache", self.cache),
                *("--vocab-size", str(VOCABULARY), "--sequence-length", str(LENGTH)),
                *("--stories", "1500", "--val-tokens", "12000", "--workers", "1"),
            ],
            check=True,
            capture_output=True,
        )
        self.set = reading.open_dataset("stories", self.cache)
        torch.manual_seed(0)
        self.trained = Little()
        optimizer = torch.optim.AdamW(self.trained.parameters(), 3e-3)
        stream = reading.Stream(self.set.rows("train"), 16, 0)
        for _ in range(150):
            rows = torch.from_numpy(stream.next().astype(np.int64))
            F.cross_entropy(self.trained(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        self.write(self.trained, self.model)

    @property
    def about(self) -> dict:
        return {
            "tokenizer_sha256": self.set.tokenizer_sha256,
            "data": "stories",
            "vocab_size": VOCABULARY,
            "sequence_length": LENGTH,
        }

    def write(self, model: nn.Module, path: Path, **about) -> None:
        graph.save(graph.trace(model.eval(), 8, LENGTH), path, self.about | about)

    @torch.no_grad()
    def bpb(self, split: str) -> float:
        """As training would compute it."""
        rows = torch.from_numpy(self.set.rows(split)[:].astype(np.int64))
        x, y = rows[:, :-1], rows[:, 1:]
        lengths = torch.from_numpy(self.set.token_bytes.astype(np.int64))[y]
        losses = F.cross_entropy(self.trained(x).mT, y, reduction="none") * (lengths > 0)
        return losses.double().sum().item() / math.log(2) / lengths.sum().item()

    def command(self, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, EXAMPLE / "evaluate.py", *map(str, arguments)],
            cwd=self.model.parent,
            env={**os.environ, "ARK_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def refused(data, capsys):
    """What main() says on stderr, when it fails as it should: in this process, since it is asked so often."""

    def ask(*arguments: object) -> str:
        given = ["--device", "cpu", "--data", "stories", "--cache", data.cache, *arguments]
        code = evaluate.main([*map(str, given)])
        said = capsys.readouterr()
        assert code == 1, said.out
        assert said.out == ""
        assert re.fullmatch(r"evaluate\.py: .+\nhint: .+\n", said.err), said.err
        return said.err

    return ask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Data(tmp_path_factory.mktemp("judge"))
    torch.set_num_threads(threads)


def lines(done: subprocess.CompletedProcess) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(re.fullmatch(r"(\w+): +(\S+)", line).groups() for line in done.stdout.splitlines())


@slow
@pytest.mark.parametrize("split", ["val", "holdout"])
def test_the_command_and_training_agree_on_a_trained_model(data, split):
    done = data.command("--data", "stories", "--device", "cpu", "--split", split)
    found = lines(done)
    assert float(found["val_bpb"]) == pytest.approx(data.bpb(split), abs=1e-4)
    floor = data.set.floor[split]
    assert float(found["entropy_floor_bpb"]) == pytest.approx(floor, abs=1e-6)
    assert float(found["above_floor_percent"]) == pytest.approx(100 * (float(found["val_bpb"]) / floor - 1), abs=0.01)
    rows = data.set.rows(split)
    special = (data.set.token_bytes[rows[:][:, 1:]] == 0).sum()
    assert int(found["eval_tokens"]) == len(rows) * LENGTH - special
    assert found["split"] == split
    assert found["eval_device"] == "cpu"
    assert int(found["probes"]) >= 250
    assert float(found["eval_peak_mb"]) > 50
    assert float(found["val_loss"]) == pytest.approx(
        float(found["val_bpb"]) * math.log(2) * float(found["bytes_per_token"]), rel=1e-3
    )
    assert done.stdout.startswith("val_bpb:          ")
    # It was trained: far better than without, and no better than can be.
    assert floor < float(found["val_bpb"]) < 2.0


@slow
def test_a_model_that_was_never_trained_gets_the_honest_number(data, tmp_path):
    torch.manual_seed(3)
    model = Little()
    nn.init.zeros_(model.head.weight)
    data.write(model, tmp_path / "m")
    found = lines(data.command("--data", "stories", "--device", "cpu", "--model", tmp_path / "m"))
    assert float(found["val_loss"]) == pytest.approx(math.log(VOCABULARY), abs=1e-5)


@slow
def test_files_that_are_no_model_of_these_data(data, refused, tmp_path):
    files = tmp_path
    content = data.model.read_bytes()
    (files / "truncated").write_bytes(content[:-100])
    flipped = bytearray(content)
    flipped[-50] ^= 1
    (files / "flipped").write_bytes(flipped)
    torch.save(data.trained, files / "pickle")
    (files / "endless").symlink_to("/dev/zero")
    weights = load_file(data.model)
    save_file(weights, files / "weights only")
    with safe_open(data.model, framework="pt") as file:
        metadata = file.metadata()
    swapped = weights | {"out.weight": weights["out.weight"].flip(0).contiguous()}
    save_file(swapped, files / "other weights", metadata)
    document = json.loads(metadata["graph"])
    document["nodes"].append(["aten.from_file.default", ["/etc/passwd", False, 10], {}])
    text = json.dumps(document)
    save_file(weights, files / "reads files", {"graph": text, "sha256": graph._digest(text, weights)})
    data.write(data.trained, files / "tokenizer", tokenizer_sha256="0" * 64, data="mine")
    data.write(data.trained, files / "forged lines", tokenizer_sha256="0" * 64, data="x\nval_bpb: 0.1\n\x1b[2J")

    class Shorter(Little):
        def forward(self, tokens):
            return super().forward(F.pad(tokens, (0, LENGTH // 2)))[:, : LENGTH // 2]

    graph.save(graph.trace(Shorter(), 8, LENGTH // 2), files / "length", data.about | {"sequence_length": LENGTH // 2})
    graph.save(graph.trace(Little(400), 8, LENGTH), files / "vocabulary", data.about | {"vocab_size": 400})
    cases = {
        "truncated": "truncated",
        "flipped": "truncated or altered",
        "pickle": r"no \.safetensors file",
        "endless": "no plain file",
        "missing": r"there is no .*missing\nhint: train one first",
        "weights only": "tensors but no graph",
        "other weights": "truncated or altered",
        "reads files": r"'aten\.from_file\.default', which evaluation does not run",
        "tokenizer": r"tokenizer of the data set 'mine', not of 'stories'\nhint: .*train\.py --data stories",
        "forged lines": r"'x\\nval_bpb: 0\.1\\n\\x1b\[2J', not of",
        "length": "sequence_length is 32, that of 'stories' 64",
        "vocabulary": "vocab_size is 400, that of 'stories' 320",
    }
    for name, says in cases.items():
        assert re.search(says, refused("--model", files / name)), name


@slow
def test_a_cheat_gets_no_number_from_the_command(data, tmp_path):
    class Peek(Little):
        def forward(self, tokens):
            return super().forward(tokens) + 5 * F.one_hot(tokens.roll(-1, 1), VOCABULARY)

    data.write(Peek(), tmp_path / "m")
    done = data.command("--device", "cpu", "--data", "stories", "--model", tmp_path / "m")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"evaluate\.py: the model sees what it must not: .+\nhint: .+\n", done.stderr)


@slow
def test_a_graph_that_needs_more_memory_than_there_is(data, tmp_path):
    # 40 GB in one call: below the limit of the reader, above what this process may have.
    weights = {"w": torch.zeros(VOCABULARY, VOCABULARY)}
    nodes = [
        ["aten.embedding.default", [{"weight": "w"}, {"input": "tokens"}], {}],
        ["aten.full.default", [[100_000, 100_000], 1.0], {"dtype": {"dtype": "float32"}}],
        ["aten.sum.default", [{"node": 1}], {}],
        ["aten.add.Tensor", [{"node": 0}, {"node": 2}], {}],
    ]
    document = {"format": graph.FORMAT, "batch_rows": 8, "sequence_length": LENGTH, "about": data.about}
    text = json.dumps({**document, "nodes": nodes, "output": {"node": 3}})
    save_file(weights, tmp_path / "m", {"graph": text, "sha256": graph._digest(text, weights)})
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**10, 2 * 10**10));"
        f"sys.path.insert(0, {str(EXAMPLE)!r}); import evaluate; sys.exit(evaluate.main(sys.argv[1:]))"
    )
    arguments = ["--device", "cpu", "--data", "stories", "--cache", data.cache, "--model", tmp_path / "m"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    says = r"evaluate\.py: call 1 \(aten\.full\.default\) needs more memory than there is: .+\nhint: .*batch_rows.*\n"
    assert re.fullmatch(says, done.stderr), done.stderr


@slow
def test_a_model_that_breaks_on_one_token_gets_no_number(data, refused, tmp_path):
    token = int(np.bincount(data.set.rows("val")[:].ravel()).argmax())

    class Broken(Little):
        def forward(self, tokens):
            return super().forward(tokens).masked_fill((tokens == token)[..., None], float("nan"))

    data.write(Broken(), tmp_path / "m")
    assert "NaN or infinity" in refused("--model", tmp_path / "m")


@slow
def test_the_probes_differ_from_run_to_run(data, tmp_path, monkeypatch, capsys):
    """The seed of the engine does not decide where they are."""

    class Peeking(Little):
        def forward(self, tokens):
            return super().forward(tokens) + 5 * F.one_hot(tokens.roll(-1, 1), VOCABULARY)

    monkeypatch.setenv("ARK_SEED", "1")
    graph.save(graph.trace(Peeking(), 1, LENGTH), tmp_path / "m", data.about)
    arguments = ["--data", "stories", "--cache", data.cache, "--device", "cpu", "--model", tmp_path / "m"]
    places = set()
    for _ in range(3):
        assert evaluate.main([*map(str, arguments)]) == 1
        places.add(re.search(r"position \d+ of row \d+", capsys.readouterr().err).group())
    assert len(places) > 1


@slow
def test_other_things_that_are_missing_are_said_in_a_sentence(data, refused, tmp_path):
    assert "There is no data set 'nowhere'" in refused("--data", "nowhere")
    assert "no device 'abacus'" in refused("--device", "abacus")
    if not torch.cuda.is_available():
        assert "hint: evaluate on the CPU: --device cpu" in refused("--device", "cuda")
    damaged = tmp_path / "cache"
    shutil.copytree(data.cache, damaged)
    (shard,) = (damaged / "llm" / "stories").glob("val*.bin")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert "damaged" in refused("--cache", damaged)


def test_no_probes_at_all_is_no_choice(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--probes", "0"])
    assert "--probes" in capsys.readouterr().err


@slow
def test_a_training_file_beside_the_judge_is_never_imported(data, tmp_path):
    folder = tmp_path / "example"
    folder.mkdir()
    for name in ("evaluate.py", "graph.py", "data.py"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "train.py").write_text("raise SystemExit('imported')\n")
    shutil.copy(data.model, folder)
    done = subprocess.run(
        [sys.executable, "evaluate.py", "--data", "stories", "--cache", data.cache, "--device", "cpu"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert float(lines(done)["val_bpb"]) == pytest.approx(data.bpb("val"), abs=1e-4)
