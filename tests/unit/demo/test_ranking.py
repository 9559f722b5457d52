import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop.demo.ranking import StopWords, rank, words_of


def phrases(text: str, top: int = 10) -> list[str]:
    return [term.phrase for term in rank(text, StopWords(), top=top)]


def test_the_stop_words_are_english_words_in_lower_case() -> None:
    stop_words = StopWords()
    assert len(stop_words) > 400
    assert "the" in stop_words
    assert "don't" in stop_words
    assert "queue" not in stop_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("It's a first-in, first-out queue.", ["It's", "a", "first-in", "first-out", "queue"]),
        ("caf\u00e9 \u2013 na\u00efve, 42!", ["caf\u00e9", "na\u00efve", "42"]),
        ("-- '' -a- don\u2019t", ["a", "don\u2019t"]),
    ],
)
def test_words_are_letters_or_digits_with_hyphens_and_apostrophes_inside(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_phrases_end_at_stop_words_numbers_and_punctuation() -> None:
    assert phrases("bounded queue, event loop. graceful 3 shutdown of sockets") == [
        "bounded", "queue", "event", "loop", "graceful", "shutdown", "sockets",
    ]  # fmt: skip


def test_a_phrase_that_returns_ranks_above_its_parts() -> None:
    text = "The event loop is free. An event loop is never busy. The event loop, then."
    assert phrases(text)[0] == "event loop"


def test_a_word_counts_less_where_it_stands_in_a_longer_phrase() -> None:
    (loop,) = (term for term in rank("event loop, event loop, loop", StopWords(), top=9) if term.phrase == "loop")
    assert loop.times == 3
    assert loop.score == 1.0  # 3, less the 2 of "event loop"


def test_a_plural_counts_with_its_singular_where_the_text_has_both() -> None:
    (term,) = rank("queue, queues, queues", StopWords(), top=1)
    assert (term.phrase, term.times) == ("queues", 3)
    assert phrases("chaos, chaos") == ["chaos"]


def test_a_possessive_counts_with_its_word() -> None:
    assert [(term.phrase, term.times) for term in rank("The queue's end; a queue\u2019s end.", StopWords(), top=1)] == [
        ("queue", 2)
    ]


def test_a_keyword_is_written_as_the_text_writes_it() -> None:
    assert phrases("The GIL and the GIL.") == ["GIL"]
    assert phrases("Sockets. The sockets.") == ["sockets"]


def test_equal_scores_stand_in_the_order_of_first_occurrence() -> None:
    assert phrases("zebra, apple, mango, zebra, apple, mango") == ["zebra", "apple", "mango"]


def test_no_more_than_asked_for() -> None:
    assert len(phrases("alpha, beta, gamma, delta", top=2)) == 2


def test_a_text_of_stop_words_has_no_keywords() -> None:
    assert phrases("and so it is, as it was") == []


@given(st.text(max_size=300))
def test_every_keyword_of_any_text_occurs_in_it_and_none_twice(text: str) -> None:
    found = rank(text, StopWords(), top=10)
    words = words_of(text)
    for term in found:
        assert term.phrase.split(" ")[0].casefold() in " ".join(words).casefold()
        assert term.times >= 1
        assert term.score > 0
    assert len({term.phrase for term in found}) == len(found)
    assert [term.score for term in found] == sorted((term.score for term in found), reverse=True)


@given(st.lists(st.sampled_from("queue queues event loop door the of . ,".split()), max_size=60))
def test_counts_are_those_of_the_text(tokens: list[str]) -> None:
    text = " ".join(tokens)
    counted = {term.phrase.removesuffix("s"): term.times for term in rank(text, StopWords(), top=100)}
    for word in ("event", "loop", "door"):
        if word in counted:
            assert counted[word] == tokens.count(word)
