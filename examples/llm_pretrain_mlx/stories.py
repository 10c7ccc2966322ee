"""Little children's stories from a grammar whose probability is known exactly: data with a floor.

    python stories.py            # three stories and the bits that each holds
    python stories.py 7 100      # seed 7, the story with index 100

A story is a list of random choices, written out so that every choice can be read back from the text: no two different
lists of choices give the same text. So the probability of a text is the product of the probabilities of its choices,
and its information is the sum of their -log2 (Shannon 1948, A Mathematical Theory of Communication, sections 6 and 7).
No model can be expected to need fewer bits. One that learns the words, their frequencies, and who wanted what, comes
close.

What there is to learn, from easy to hard: the spelling of words; their unequal frequencies (the k-th of a list has a
weight near 1/(k+1)); which word leads to which (the weather decides the clothes, the tool the trouble); pronouns that
agree with a name; and what the text itself says, sometimes long before it matters: the names, the thing that was
wanted and at last is found, the tool taken along at the start that helps in trouble.

The text is a function of (seed, index) alone, on every platform: choices are drawn with whole numbers from the raw
bits of the Mersenne Twister.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
import random
import string
import sys
from collections.abc import Generator, Sequence


@functools.cache
def weights(n: int) -> tuple[int, ...]:
    """Weights of a list of n options: near 1/(k+2), in whole numbers, so that probabilities are exact fractions."""
    return tuple(5040 // (k + 2) for k in range(n))


@functools.cache
def _steps(n: int) -> tuple[int, ...]:
    return tuple(itertools.accumulate(weights(n)))


_words = str.split


def _phrases(text: str) -> list[str]:
    return text.split("|")


# No option of a choice is the beginning of another, and words after "a" begin with a consonant.
GIRLS = _words("Lily Mia Wanda Rosie Bella Nora Zoe Daisy")
BOYS = _words("Tom Ben Max Sam Finn Jack Hugo Victor")
ANIMALS = _words("fox rabbit bear mouse duck frog cat hedgehog puppy squirrel tiger panda")
TIMES = _phrases("One morning|One day|One evening|Last summer|Long ago|On Sunday|In spring|After lunch|Today|Once")
TRAITS = _words("brave shy clever sleepy kind merry hungry careful lazy proud tiny funny")
LEFT = _phrases("left|fled|painted|guarded|cleaned|missed|visited|forgot|repaired|admired")
LOOKS = _words(
    "big small round pretty shiny dark soft heavy strange dusty warm broken hollow fresh crooked quiet "
    "magic muddy frozen noisy simple wooden giant lonely"
)
COLORS = _words("red blue yellow green golden purple silver white brown pink black gray")
PLACES = _words(
    "forest river hill farm lake village garden valley beach castle cave meadow bridge tower mill harbor "
    "market school temple desert"
)
THINGS = _words("ball kite boat hat drum bell key book lamp cake ring crown doll mirror pencil ladle")
FEELINGS = _words("happy glad thankful calm surprised cheerful speechless lucky")
WEATHER = {
    "sunny": _words("bonnet visor parasol sandals"),
    "rainy": _words("raincoat umbrella boots poncho"),
    "windy": _words("scarf jacket hood vest"),
    "snowy": _words("mittens coat cap sweater"),
    "foggy": _words("lantern whistle torch compass"),
}
OBSTACLES = {
    "rope": _phrases("hole|cliff|well|gorge"),
    "ladder": _phrases("wall|hedge|gate|ledge"),
    "map": _phrases("maze|jungle|swamp|tunnel"),
    "net": _phrases("stream|pond|flood|wave"),
    "horn": _phrases("giant|troll|ogre|wolf"),
    "basket": _phrases("swarm|thicket|landslide|orchard"),
}
DEEDS = {
    "saw": _words("butterfly snail spider beetle lizard rainbow shadow wagon puddle statue"),
    "heard": _words("cuckoo cricket song bang robin trumpet thunderclap melody giggle sneeze"),
    "found": _words("feather stone coin map nest button bottle ribbon footprint marble"),
    "drew": _words("circle flower star face whale house dragon pyramid snowman cloud"),
    "chased": _words("goat lamb piglet donkey goose pony chicken turkey calf moth"),
    "built": _words("sandcastle tent fort raft snowball bench windmill cradle fence sled"),
}
WHERE = _words("near under behind beside inside below beyond above")
NUMBERS = _words("two three four five seven nine ten twelve")
FOODS = _words("berries apples nuts plums pears cookies carrots muffins pancakes cherries beans radishes")
GREETINGS = _phrases("Hello|Stop|Good day|Please|Listen|Welcome|Hurry|Dear me")
HOW = _words("slowly quickly quietly bravely gently loudly gladly badly twice again")
AT_LAST = "\nAt last "
GO_ON = ("Then ", "Soon ", AT_LAST, "Later ", "Next ")
"""What begins each adventure, or the end: so even the length of a story can be read."""


Telling = Generator[str | Sequence[str], str, None]
"""A story being told: yields text, or the options of a choice, which is answered by `send` and is said at once."""


@functools.cache
def _pieces(template: str) -> list[tuple[str, str | None]]:
    return [(glue, field) for glue, field, _, _ in string.Formatter().parse(template)]


def _say(known: dict[str, str], template: str, **choices: Sequence[str]) -> Telling:
    """Says a template. A field among `choices` is chosen from its list and known from then on."""
    for glue, field in _pieces(template):
        if glue:
            yield glue
        if field in choices:
            known[field] = yield choices[field]
        elif field is not None:
            yield known[field]


def tell() -> Telling:
    """One story. Each choice is said at once and no option begins another, so reading from the left finds them all."""
    known: dict[str, str] = {}
    say = functools.partial(_say, known)
    yield from say("{time} a {trait} ", time=TIMES, trait=TRAITS)
    yield from say("{animal} named {hero} ", animal=ANIMALS, hero=BOYS + GIRLS)
    known["he"], known["his"] = ("she", "her") if known["hero"] in GIRLS else ("he", "his")
    yield from say("{left} the {looks} {place}. ", left=LEFT, looks=LOOKS, place=PLACES)
    yield from say("It was {weather}, so {he} took {his} {color} ", weather=tuple(WEATHER), color=COLORS)
    yield from say("{clothes} and a {tool}. ", clothes=WEATHER[known["weather"]], tool=tuple(OBSTACLES))
    yield from say("{hero} wanted a {prize looks} {prize color} ", **{"prize looks": LOOKS, "prize color": COLORS})
    friends = [name for name in GIRLS + BOYS if name != known["hero"]]
    yield from say("{prize} for {friend} the ", prize=THINGS, friend=friends)
    yield from say("{other animal}.\n", **{"other animal": [kind for kind in ANIMALS if kind != known["animal"]]})
    strangers = [kind for kind in ANIMALS if kind not in (known["animal"], known["other animal"])]
    while (yield GO_ON) != AT_LAST:
        subjects = (f"{known['he']} ", f"{known['hero']} ", f"the {known['animal']} ", "a ", "there was a ")
        match subjects.index((yield subjects)):
            case 3:
                yield from say("{looks} {stranger} said, ", looks=LOOKS, stranger=strangers)
                yield from say('"{hello}! Give me {number} {food}!" ', hello=GREETINGS, number=NUMBERS, food=FOODS)
                yield from say("{hero} gave the {stranger} {number} {food} {how}. ", how=HOW)
            case 4:
                obstacles = OBSTACLES[known["tool"]]
                yield from say("{looks} {obstacle}. {hero} ", looks=LOOKS, obstacle=obstacles)
                yield from say("used the {tool} {how}. ", how=HOW)
            case _:
                yield from say("{deed} a {looks} ", deed=tuple(DEEDS), looks=LOOKS)
                yield from say("{what} {where} ", what=DEEDS[known["deed"]], where=WHERE)
                yield from say("the {looks} {place}. ", looks=LOOKS, place=PLACES)
    yield from say("{hero} found the {prize looks} {prize color} {prize} {where} ", where=WHERE)
    yield from say("the {looks} {place}. ", looks=LOOKS, place=PLACES)
    yield from say("{hero} gave the {prize looks} {prize color} {prize} to {friend} {how}. ", how=HOW)
    yield from say("{friend} the {other animal} was {feeling}. The end.\n", feeling=FEELINGS)


def generate(seed: int, index: int) -> tuple[str, float]:
    """Story `index` of `seed`, ASCII text, and its information in bits: -log2 of its probability, to six decimals."""
    draw = random.Random(f"stories {seed} {index}").getrandbits
    numerator = denominator = 1
    text = []
    telling = tell()
    item = next(telling)
    while True:
        answer = None
        if not isinstance(item, str):
            steps = _steps(len(item))
            total = steps[-1]
            size = total.bit_length()
            at = draw(size)
            while at >= total:  # so that each number below the total is equally likely, exactly
                at = draw(size)
            k = bisect.bisect_right(steps, at)
            numerator, denominator = numerator * weights(len(item))[k], denominator * total
            item = answer = item[k]
        text.append(item)
        try:
            item = telling.send(answer)
        except StopIteration:
            return "".join(text), round(math.log2(denominator) - math.log2(numerator), 6)


def fingerprint() -> str:
    """SHA-256 of the first 256 stories of seed 0: another grammar has another one."""
    return hashlib.sha256("".join(generate(0, index)[0] for index in range(256)).encode()).hexdigest()


if __name__ == "__main__":
    seed, first, last = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[2]) + 1) if len(sys.argv) == 3 else (0, 0, 3)
    for index in range(first, last):
        text, bits = generate(seed, index)
        print(f"{text}[{bits:.1f} bits, {bits / len(text.encode()):.4f} bits per byte]\n")
