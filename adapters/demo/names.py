"""Names of the demo world's entities: put together from lists, or made up syllable by syllable.

Covered: listed names ("Anna Berg", "Brightwater Labs"), made-up names that no vocabulary has a token for
("Zelkan Ottimar"), made-up objects, and the rule that keeps some names out of pre-training. Not covered:
facts.
"""

import itertools
import random
import zlib
from functools import lru_cache

from adapters.demo import words

RESERVED_SHARE = 4
"""One name in this many is reserved for new facts: pre-training never says it."""

_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "person": (words.FIRST_NAMES, words.LAST_NAMES),
    "company": (words.COMPANY_STEMS, words.COMPANY_SUFFIXES),
    "product": (words.PRODUCT_STEMS, words.PRODUCT_NOUNS),
    "place": (words.PLACE_PREFIXES, words.PLACE_STEMS),
}
_MORE_SYLLABLES = (1, 1, 2)
_ONE_WORD_PLACES = 0.5


def is_reserved(name: str) -> bool:
    """Whether pre-training must never say this name."""
    return zlib.crc32(name.encode()) % RESERVED_SHARE == 0


@lru_cache
def listed_names(kind: str, reserved: bool) -> tuple[str, ...]:
    """Every name of this kind that the lists can form, of one side of the reservation, in a fixed order."""
    pairs = itertools.product(*_PARTS[kind])
    return tuple(name for name in (" ".join(pair) for pair in pairs) if is_reserved(name) == reserved)


def made_up_word(rng: random.Random) -> str:
    """Two or three random syllables, lower case: "ottimar"."""
    syllables = 1 + rng.choice(_MORE_SYLLABLES)
    return "".join(rng.choice(words.ONSETS) + rng.choice(words.VOWELS) + rng.choice(words.CODAS) for _ in range(syllables))


def made_up_name(rng: random.Random, kind: str, reserved: bool) -> str:
    """A made-up name shaped like its kind ("Zelkan Ottimar", "Ottimar Works"), reserved or not as asked."""
    while True:
        word = made_up_word(rng).capitalize()
        if kind == "person":
            name = f"{word} {made_up_word(rng).capitalize()}"
        elif kind == "place":
            name = word if rng.random() < _ONE_WORD_PLACES else f"{rng.choice(words.PLACE_PREFIXES)} {word}"
        else:
            name = f"{word} {rng.choice(_PARTS[kind][1])}"
        if is_reserved(name) == reserved:
            return name


def made_up_object(rng: random.Random, like: str) -> str:
    """A made-up object with the capitals of a listed one: "Zelkan" for "Oslo", "zelkan" for "risotto"."""
    word = made_up_word(rng)
    return word.capitalize() if like[0].isupper() else word
