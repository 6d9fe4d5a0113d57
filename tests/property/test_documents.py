"""Every database returns documents equal to those stored, and values that are not JSON are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.models import new_id
from tests.conftest import an_artifact, an_event
from tests.property.strategies import Path, documents, nested_at, not_json, path_text, paths, times, values


def exactly(value: Any) -> str:
    """A text that differs for 1, 1.0 and True, for -0.0 and 0.0, and for another order of keys."""
    return repr(value)


def test_an_event_s_documents_come_back_equal(store: Any) -> None:
    @given(documents(), documents())
    def check(data: Any, metadata: Any) -> None:
        event = store.append_event(an_event(new_id("ses_"), data=data, metadata=metadata))

        (stored,) = store.get_events(event.session_id)

        assert exactly([stored.data, stored.metadata]) == exactly([data, metadata])

    check()


def test_the_documents_of_a_batch_come_back_equal(store: Any) -> None:
    @given(st.lists(documents(), min_size=1, max_size=8))
    def check(batch: list[Any]) -> None:
        session_id = new_id("ses_")
        store.append_events([an_event(session_id, data=data) for data in batch])

        assert exactly([event.data for event in store.get_events(session_id)]) == exactly(batch)

    check()


def test_a_session_s_documents_come_back_equal(store: Any) -> None:
    @given(documents(), documents())
    def check(metadata: Any, context: Any) -> None:
        session = asm.Session(agent_id="agent", metadata=metadata, context=context)
        store.save_session(session)

        stored = store.get_session(session.id)

        assert exactly([stored.metadata, stored.context]) == exactly([metadata, context])

    check()


def test_a_run_s_documents_come_back_equal(store: Any) -> None:
    @given(values(), values(), values(), documents())
    def check(input: Any, output: Any, error: Any, provider_metadata: Any) -> None:
        documents = {
            "input": input,
            "output": output,
            "error": error,
            "provider_metadata": provider_metadata,
        }
        run = asm.Run(session_id="ses_1", **documents)
        store.save_run(run)

        stored = store.get_run(run.id)

        assert exactly({name: getattr(stored, name) for name in documents}) == exactly(documents)

    check()


def test_an_artifact_s_metadata_come_back_equal(store: Any) -> None:
    @given(documents())
    def check(metadata: Any) -> None:
        artifact = an_artifact(new_id("key_"), metadata=metadata)
        store.artifacts.register(artifact)

        assert exactly(store.artifacts.get_by_key(artifact.key).metadata) == exactly(metadata)

    check()


def test_an_integer_of_4_300_digits_comes_back_equal(store: Any) -> None:
    number = 10**4_300 - 1
    store.append_event(an_event("ses_1", data={"n": number}))

    assert store.get_events("ses_1")[0].data == {"n": number}


def test_a_time_comes_back_equal(store: Any) -> None:
    @given(times())
    def check(timestamp: Any) -> None:
        event = store.append_event(an_event(new_id("ses_"), timestamp=timestamp))

        assert store.get_events(event.session_id)[0].timestamp == timestamp

    check()


def test_a_value_that_is_not_json_is_refused_with_its_path() -> None:
    @given(paths(), not_json())
    def check(path: Path, value: Any) -> None:
        with pytest.raises(asm.ValidationError) as refusal:
            an_event(data=nested_at(path, value))

        assert refusal.value.details["path"] == path_text("data", path)

    check()


def test_a_document_that_is_modified_into_something_else_than_json_is_refused_before_any_write(
    store: Any,
) -> None:
    @given(paths(), not_json())
    def check(path: Path, value: Any) -> None:
        session_id = new_id("ses_")
        bad = an_event(session_id)
        bad.data.update(nested_at(path, value))

        with pytest.raises(asm.ValidationError) as refusal:
            store.append_events([an_event(session_id), bad, an_event(session_id)])

        assert refusal.value.details["path"] == path_text("data", path)
        assert (store.get_events(session_id), store.get_latest_sequence(session_id)) == ([], 0)

    check()
