"""Little children's stories from a grammar whose probability is known exactly: data with a floor.

    python stories.py            # three stories and the bits that each holds
    python stories.py 7 100      # seed 7, the story with index 100

A story is a list of random choices, written out so that every choice can be read back from the text: no two different
lists of choices give the same text. So the probability of a text is the product of the probabilities of its choices,
and its information is the sum of their -log2 (Shannon 1948, A Mathematical Theory of Communication, sections 6 and 7).
No model can be expected to need fewer bits. One that learns the words, their frequencies, and who wanted what, comes
close.

What there is to learn, from easy to hard: the spelling of words; their unequal frequencies (the k-th of a list has a
weight near 1/k); which word leads to which (the weather decides the clothes, the tool the trouble); pronouns that
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
import sys
from collections.abc import Callable, Sequence

Choose = Callable[[Sequence[str]], str]
"""Picks one of a list by `weights`. All of a story's chance goes through it."""


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
AT_LAST = "At last"
GO_ON = ("Then", "Soon", AT_LAST, "Later", "Next")
"""What begins each adventure, or the end: so even the length of a story can be read."""


def tell(choose: Choose) -> str:
    """One story. Everything left to chance is asked of `choose`, in the order in which the text shows it."""
    time, trait, animal, hero = choose(TIMES), choose(TRAITS), choose(ANIMALS), choose(BOYS + GIRLS)
    he, his = ("she", "her") if hero in GIRLS else ("he", "his")
    left, home_looks, home = choose(LEFT), choose(LOOKS), choose(PLACES)
    text = f"{time} a {trait} {animal} named {hero} {left} the {home_looks} {home}. "
    weather = choose(tuple(WEATHER))
    color, clothes, tool = choose(COLORS), choose(WEATHER[weather]), choose(tuple(OBSTACLES))
    text += f"It was {weather}, so {he} took {his} {color} {clothes} and a {tool}. "
    looks, color, thing = choose(LOOKS), choose(COLORS), choose(THINGS)
    prize = f"{looks} {color} {thing}"
    friend = choose([name for name in GIRLS + BOYS if name != hero])
    friend_animal = choose([other for other in ANIMALS if other != animal])
    text += f"{hero} wanted a {prize} for {friend} the {friend_animal}.\n"
    while (on := choose(GO_ON)) != AT_LAST:
        text += f"{on} "
        match choose(("he", "hero", "animal", "voice", "trouble")):
            case "voice":
                greeting, stranger_looks = choose(GREETINGS), choose(LOOKS)
                stranger = choose([other for other in ANIMALS if other not in (animal, friend_animal)])
                number, food = choose(NUMBERS), choose(FOODS)
                text += f'a {stranger_looks} {stranger} said, "{greeting}! Give me {number} {food}!" '
                text += f"{hero} gave the {stranger} {number} {food} {choose(HOW)}. "
            case "trouble":
                looks, obstacle = choose(LOOKS), choose(OBSTACLES[tool])
                text += f"there was a {looks} {obstacle}. {hero} used the {tool} {choose(HOW)}. "
            case subject:
                subject = {"he": he, "hero": hero, "animal": f"the {animal}"}[subject]
                deed = choose(tuple(DEEDS))
                looks, what, where = choose(LOOKS), choose(DEEDS[deed]), choose(WHERE)
                there_looks, there = choose(LOOKS), choose(PLACES)
                text += f"{subject} {deed} a {looks} {what} {where} the {there_looks} {there}. "
    where, there_looks, there = choose(WHERE), choose(LOOKS), choose(PLACES)
    text += f"\n{on} {hero} found the {prize} {where} the {there_looks} {there}. "
    text += f"{hero} gave the {prize} to {friend} {choose(HOW)}. "
    return text + f"{friend} the {friend_animal} was {choose(FEELINGS)}. The end.\n"


def generate(seed: int, index: int) -> tuple[str, float]:
    """Story `index` of `seed`, ASCII text, and its information in bits: -log2 of its probability, to six decimals."""
    draw = random.Random(f"stories {seed} {index}").getrandbits
    numerator = denominator = 1

    def choose(options: Sequence[str]) -> str:
        nonlocal numerator, denominator
        steps = _steps(len(options))
        total = steps[-1]
        size = total.bit_length()
        at = draw(size)
        while at >= total:  # so that each number below the total is equally likely, exactly
            at = draw(size)
        k = bisect.bisect_right(steps, at)
        numerator, denominator = numerator * weights(len(options))[k], denominator * total
        return options[k]

    text = tell(choose)
    return text, round(math.log2(denominator) - math.log2(numerator), 6)


def fingerprint() -> str:
    """SHA-256 of the first 256 stories of seed 0: another grammar has another one."""
    return hashlib.sha256("".join(generate(0, index)[0] for index in range(256)).encode()).hexdigest()


if __name__ == "__main__":
    seed, first, last = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[2]) + 1) if len(sys.argv) == 3 else (0, 0, 3)
    for index in range(first, last):
        text, bits = generate(seed, index)
        print(f"{text}[{bits:.1f} bits, {bits / len(text.encode()):.4f} bits per byte]\n")
