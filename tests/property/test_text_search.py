"""Both databases find the same events by any text, in the index or not, and so does a simple model.

The model knows the letters, accents and spaces that the strategies use; what Unicode says of others is the
same code for both databases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from asm.engine.jobs import run_job
from asm.operations.text_index import index_events
from tests.conftest import DATABASES, Cluster, an_event

WORDS = ["a", "b", "ab", "Ba", "á", "AB", "not", "NEAR", "or", "x1"]
SPACES = [" ", "  ", "\n", "_", "-", ".", '"', "'", "\\", "\0", "*", "(", "}", ":", "&", "|", "<->", "!"]

texts = st.lists(st.sampled_from([*WORDS, *SPACES, " "]), max_size=12).map("".join)
strings = st.lists(texts, min_size=1, max_size=3)
terms = st.builds(
    lambda minus, words, quote, star: f"{minus}{quote}{words}{quote}{star}",
    st.sampled_from(["", "", "-"]),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    st.sampled_from(["", '"']),
    st.sampled_from(["", "*"]),
)
queries = st.lists(terms, min_size=1, max_size=3).map(" ".join) | texts


def folded(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower().replace("á", "a"))


def model(query: str) -> Callable[[list[str]], bool] | None:
    """Whether strings match a text; None if the text has no word to find."""
    wanted, excluded = list[tuple[list[str], bool]](), list[tuple[list[str], bool]]()
    for minus, quote, phrase, after, word in re.findall(r'(-?)(?:(")([^"]*)("\*|"|$)|([^\s"]+))', query):
        words = folded(phrase if quote else word)
        if words:
            term = (words, after == '"*' or (phrase if quote else word).endswith("*"))
            (excluded if minus else wanted).append(term)
    if not wanted:
        return None

    def matches(found: list[str]) -> bool:
        there = [folded(each) for each in found]
        return all(_has(there, *term) for term in wanted) and not any(_has(there, *term) for term in excluded)

    return matches


def _has(strings: list[list[str]], words: list[str], is_prefix: bool) -> bool:
    size = len(words)
    runs = [string[at : at + size] for string in strings for at in range(len(string) - size + 1)]
    return any(
        run[:-1] == words[:-1] and (run[-1].startswith(words[-1]) if is_prefix else run[-1] == words[-1])
        for run in runs
    )


@pytest.fixture
def stores(tmp_path: Any, clusters: Callable[[str], Cluster]) -> Iterator[list[asm.SessionStore]]:
    """A store with the index on each kind of database."""
    with ExitStack() as stack:
        dsns = [
            f"sqlite:///{tmp_path / 'store.db'}"
            if kind == "sqlite"
            else stack.enter_context(clusters(kind).database(migrated=True))
            for kind in DATABASES
        ]
        for dsn in dsns:
            asm.migrate(dsn, text_search=True)
        yield [stack.enter_context(asm.SessionStore(dsn)) for dsn in dsns]


def test_every_database_finds_what_the_model_finds(stores: list[asm.SessionStore]) -> None:
    sessions = iter(range(1_000_000))

    @settings(max_examples=30)
    @given(events=st.lists(strings, min_size=1, max_size=6), indexed=st.integers(0, 6), query=queries)
    def check(events: list[list[str]], indexed: int, query: str) -> None:
        session_id = f"ses_{next(sessions)}"
        matches = model(query)
        numbers = [n for n, found in enumerate(events, 1) if matches is not None and matches(found)]
        pages = list[Any]()
        for store in stores:
            for n, found in enumerate(events):
                if n == indexed:
                    run_job(index_events(), store._database)
                store.append_event(an_event(session_id, id=f"evt_{n}", data={"a": found[0], "b": found[1:]}))
            if matches is None:
                with pytest.raises(asm.ValidationError, match="word"):
                    store.query.search_events(session_ids=session_id, text=query)
                continue
            page = store.query.search_events(session_ids=session_id, text=query)
            assert [event.sequence_number for event in page] == numbers
            ranked = store.query.search_events(
                session_ids=session_id, text=query, order_by="relevance", limit=1
            )
            pages.append((page.snippets, [event.id for event in ranked], ranked.cursor))
            run_job(index_events(), store._database)
            assert store.query.count_events(session_ids=session_id, text=query) == len(numbers)
            again = store.query.search_events(
                session_ids=session_id, text=query, order_by="relevance", limit=1
            )
            assert ([event.id for event in again], again.cursor) == pages[-1][1:]
        assert all(page == pages[0] for page in pages)

    check()
