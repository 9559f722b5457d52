"""What a text is about: its keywords, ranked.

Owns the words of a text, the stop words and the ranking. Pure functions of the text; nothing of offloop may enter.

Candidates are the runs of words between stop words, numbers and punctuation, as in RAKE (Rose, Engel, Cramer, Cowley:
"Automatic keyword extraction from individual documents", in Text Mining: Applications and Theory, 2010), and the parts
of such runs, up to four words. They are scored by C-value (Frantzi, Ananiadou, Mima: "Automatic recognition of
multi-word terms", International Journal on Digital Libraries 3, 2000): a phrase counts as often as it occurs, less the
mean count of the longer phrases it is a part of, times log2 of its length plus one (so that single words take part).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from math import log2
from typing import NamedTuple

WORD = r"\w+(?:['\u2019\u2010-]\w+)*"
LONGEST = 4
"""Words in a keyword."""

_WORDS = re.compile(WORD)
_TOKENS = re.compile(rf"(?P<word>{WORD})|(?P<edge>[^\w\s]|\n\s*\n)")

Key = tuple[str, ...]
Run = list[tuple[str, str]]
"""Neighbouring content words, each as (key, as it is written)."""


class StopWords:
    """The English words that tell nothing of what a text is about, as bundled."""

    def __init__(self) -> None:
        lines = files("offloop.demo").joinpath("stop_words.txt").read_text("utf-8").splitlines()
        self._words = frozenset(word for line in lines if not line.startswith("#") for word in line.split())

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def __len__(self) -> int:
        return len(self._words)


class Term(NamedTuple):
    """A keyword: as it is written most often, its C-value, and how often it occurs."""

    phrase: str
    score: float
    times: int


def words_of(text: str) -> list[str]:
    """The words of a text: letters or digits, with hyphens and apostrophes inside.

    Example:
        >>> words_of("It's a first-in, first-out queue of 3.")
        ["It's", 'a', 'first-in', 'first-out', 'queue', 'of', '3']
    """
    return _WORDS.findall(text)


def rank(text: str, stop_words: StopWords, *, top: int) -> list[Term]:
    """The keywords of a text, best first; equal scores in the order of their first occurrence.

    The same text gives the same list, always. Takes time and space in proportion to the text.

    Args:
        text: running text, in English.
        stop_words: the words that no keyword contains.
        top: how many at most.
    """
    runs = _with_singulars(list(_runs(text, stop_words)))
    counts = _count(runs)
    longer: dict[Key, list[int]] = {}
    for term, count in counts.items():
        for part in {part for size in range(1, len(term)) for part in _parts(term, size)}:
            longer.setdefault(part, []).append(count)

    def score(term: Key) -> float:
        nested = longer.get(term)
        return log2(len(term) + 1) * (counts[term] - (sum(nested) / len(nested) if nested else 0))

    # A stable sort of terms in the order of their first occurrence.
    best = sorted(_by_occurrence(runs, counts), key=score, reverse=True)[:top]
    spelled = _spellings(runs, set(best))
    return [Term(spelled[term], score(term), counts[term]) for term in best if score(term) > 0]


def _runs(text: str, stop_words: StopWords) -> Iterator[Run]:
    run: Run = []
    for token in _TOKENS.finditer(text):
        word = token["word"]
        key = word.casefold().replace("\u2019", "'").removesuffix("'s") if word else ""
        if len(key) > 2 and key not in stop_words and not any(character.isdigit() for character in key):
            run.append((key, word.removesuffix("'s").removesuffix("\u2019s")))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _with_singulars(runs: list[Run]) -> list[Run]:
    """Count a plural with its singular, where the text has both: `queues` is `queue`."""
    known = {key for run in runs for key, _ in run}
    plurals = {key: key[:-1] for key in known if key.endswith("s") and key[:-1] in known}
    return [[(plurals.get(key, key), written) for key, written in run] for run in runs]


def _parts(words: Sequence[str], size: int) -> Iterator[Key]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _count(runs: list[Run]) -> dict[Key, int]:
    """How often each term occurs: every single word, and every longer phrase that occurs twice or more.

    Size by size, since a phrase cannot occur more often than its parts (the Apriori property; Agrawal, Srikant:
    "Fast algorithms for mining association rules", VLDB 1994): phrases that occur once are never counted one by one.
    """
    phrases = [[key for key, _ in run] for run in runs]
    found = dict(Counter(part for words in phrases for part in _parts(words, 1)))
    frequent = {term for term, count in found.items() if count > 1}
    for size in range(2, LONGEST + 1):
        again = Counter(
            part for words in phrases for part in _parts(words, size) if part[1:] in frequent and part[:-1] in frequent
        )
        frequent = {term for term, count in again.items() if count > 1}
        found |= {term: again[term] for term in frequent}
    return found


def _by_occurrence(runs: list[Run], counts: dict[Key, int]) -> list[Key]:
    seen: dict[Key, None] = {}
    for run in runs:
        words = [key for key, _ in run]
        for start in range(len(words)):
            for size in range(1, min(LONGEST, len(words) - start) + 1):
                term = tuple(words[start : start + size])
                if term in counts:
                    seen.setdefault(term)
    return list(seen)


def _spellings(runs: list[Run], terms: set[Key]) -> dict[Key, str]:
    """How each term is written most often; in doubt in lower case, then as it is first."""
    written: dict[Key, Counter[str]] = {term: Counter() for term in terms}
    for run in runs:
        words = [key for key, _ in run]
        for size in range(1, LONGEST + 1):
            for start, term in enumerate(_parts(words, size)):
                if term in terms:
                    written[term][" ".join(as_written for _, as_written in run[start : start + size])] += 1
    return {term: max(forms, key=lambda form: (forms[form], form.islower())) for term, forms in written.items()}
