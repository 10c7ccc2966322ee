"""The stories: that the information each is said to hold is what its text holds."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction

import pytest
from cuda_modules import EXAMPLE, load

stories = load("stories")
Telling = Generator[str | Sequence[str], str, None]
Tell = Callable[[], Telling]


def derivations(
    tell: Tell, text: str | None = None
) -> Iterator[tuple[str, Fraction, list[tuple[tuple[str, ...], int]]]]:
    """Every list of choices that gives `text` (or any text): (text, probability, [(options, chosen)]).

    It knows the grammar and the weights, and nothing of how stories are drawn: it tries every option that the text
    allows, telling the story anew with the choices so far, since a telling cannot be copied.
    """
    open_ends: list[list[int]] = [[]]
    while open_ends:
        choices = open_ends.pop()
        telling, answer, told, chance, made = tell(), None, "", Fraction(1), []
        while True:
            try:
                item = telling.send(answer)
            except StopIteration:
                if text is None or told == text:
                    yield told, chance, made
                break
            answer = None
            if not isinstance(item, str):
                if len(made) == len(choices):
                    possible = [k for k, word in enumerate(item) if text is None or text.startswith(word, len(told))]
                    open_ends += [[*choices, k] for k in possible[1:]]
                    if not possible:
                        break
                    choices = [*choices, possible[0]]
                k, weights = choices[len(made)], stories.weights(len(item))
                chance *= Fraction(weights[k], sum(weights))
                made.append((tuple(item), k))
                item = answer = item[k]
            told += item
            if text is not None and not text.startswith(told):
                break


def small() -> Telling:
    """A grammar of eight texts, with a choice that depends on another."""
    animal = yield ("cat", "dog")
    yield " says "
    if (yield ("nothing", "a lot: ")) != "nothing":
        yield {"cat": ("purr", "meow", "hiss"), "dog": ("wuff", "growl", "bark")}[animal]


def test_the_probabilities_of_all_derivations_of_a_small_grammar_sum_to_one() -> None:
    found = list(derivations(small))
    assert len(found) == 8
    assert sum(chance for _, chance, _ in found) == 1
    assert len({text for text, _, _ in found}) == 8


def test_the_search_for_derivations_finds_ambiguity_where_it_is() -> None:
    def two_ways() -> Telling:
        yield ("a", "aa")
        yield ("ab", "b")

    assert len(list(derivations(two_ways, "aab"))) == 2
    assert len(list(derivations(two_ways, "ab"))) == 1
    assert list(derivations(two_ways, "b")) == []


@pytest.mark.parametrize("seed", [0, 7])
def test_the_bits_of_a_story_can_be_read_from_its_text_in_one_way_only(seed: int) -> None:
    for index in range(60):
        text, bits = stories.generate(seed, index)
        [(_, chance, _)] = derivations(stories.tell, text)
        assert bits == pytest.approx(math.log2(chance.denominator) - math.log2(chance.numerator), abs=1e-6)


def every_list_of_options(rng: random.Random, count: int) -> set[tuple[str, ...]]:
    """The lists that `count` tellings with even chances come across."""
    lists = set()
    for _ in range(count):
        telling, answer = stories.tell(), None
        with contextlib.suppress(StopIteration):
            while True:
                item = telling.send(answer)
                answer = None
                if not isinstance(item, str):
                    lists.add(tuple(item))
                    answer = rng.choice(item)
    return lists


def test_no_option_begins_another_so_reading_from_the_left_is_certain() -> None:
    """With every choice said at once this is a proof that no two lists of choices give the same text."""
    lists = every_list_of_options(random.Random(1), 3000)
    assert {tuple(stories.ANIMALS), tuple(stories.LOOKS), tuple(stories.GO_ON)} <= lists
    for options in lists:
        assert not [(a, b) for a, b in itertools.permutations(options, 2) if b.startswith(a)]


def test_different_choices_give_different_texts_in_a_large_sample() -> None:
    texts = {stories.generate(0, index)[0] for index in range(4000)}
    assert len(texts) == 4000


@pytest.mark.slow
def test_choices_are_as_frequent_as_their_probabilities_say() -> None:
    """Chi-squared of each list's counts, and the mean information of stories against that of their choices."""
    counts: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for index in range(3000):
        [(_, _, made)] = derivations(stories.tell, stories.generate(11, index)[0])
        for options, k in made:
            counts[options][k] += 1
    large = {options: count for options, count in counts.items() if count.total() > 2000}
    assert len(large) > 15
    for options, count in large.items():
        weights = stories.weights(len(options))
        expected = [count.total() * weight / sum(weights) for weight in weights]
        chi_squared = sum((count[k] - value) ** 2 / value for k, value in enumerate(expected))
        freedom = len(options) - 1  # its mean; the variance is twice that
        assert chi_squared < freedom + 5 * math.sqrt(2 * freedom), options
        chances = [weight / sum(weights) for weight in weights]
        exact = -sum(p * math.log2(p) for p in chances)
        spread = math.sqrt(sum(p * (math.log2(p) + exact) ** 2 for p in chances) / count.total())
        entropy = -sum(n / count.total() * math.log2(n / count.total()) for n in count.values())
        assert abs(entropy - exact) < 5 * spread, options


def test_weights_fall_like_one_over_the_rank() -> None:
    weights = stories.weights(24)
    assert all(isinstance(weight, int) and weight > 0 for weight in weights)
    assert list(weights) == sorted(weights, reverse=True)
    assert weights[0] / weights[22] == pytest.approx(24 / 2, rel=0.01)


def test_the_text_is_the_same_in_another_process_and_with_another_hash_seed() -> None:
    script = "import stories; print([stories.generate(5, i) for i in range(50)])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=EXAMPLE, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[stories.generate(5, i) for i in range(50)]}\n".encode()


def test_the_grammar_is_the_one_whose_floors_are_on_record() -> None:
    """A change of any word or weight makes other data and other floors: it must be meant, and noted in LOG.md."""
    assert stories.fingerprint() == "0bd404147c10b1ad7cccd553a750b373e481fa50e97cd3f34cf11983a74e07c1"
    bits = "".join(f"{stories.generate(0, index)[1]:.6f} " for index in range(256))
    assert (
        hashlib.sha256(bits.encode()).hexdigest() == "550a1742a7d0fd252e17b9565fdd38a14d025c88e0045602a463315f887c81b6"
    )


def test_stories_are_short_plain_text_of_little_entropy() -> None:
    sample = [stories.generate(1, index) for index in range(2000)]
    lengths = sorted(len(text) for text, _ in sample)
    assert all(text.isascii() and text.endswith("The end.\n") for text, _ in sample)
    assert lengths[0] > 250
    assert lengths[1900] < 1500
    assert 0.3 < sum(bits for _, bits in sample) / sum(lengths) < 0.6


def test_context_pays_the_second_mention_of_names_and_things_is_certain() -> None:
    """What a model can gain by looking back: words that a reader without memory would have to guess again."""
    text, _ = stories.generate(2, 0)
    [(_, _, made)] = derivations(stories.tell, text)
    said = [options[k] for options, k in made if options[k] in stories.GIRLS + stories.BOYS]
    assert len(said) == 2
    assert sum(text.count(name) for name in said) > 4


def test_the_command_line_shows_stories_and_their_bits() -> None:
    run = subprocess.run(
        [sys.executable, "stories.py", "7", "100"], cwd=EXAMPLE, capture_output=True, text=True, check=True
    )
    text, bits = stories.generate(7, 100)
    assert text in run.stdout
    assert f"{bits:.1f} bits" in run.stdout
