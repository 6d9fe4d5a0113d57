"""The models: the values they accept and refuse, their dicts, their updates, their rows."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, TypeAlias, get_type_hints

import pytest

import asm
from asm import models
from asm.operations.runs import save_run

AnyModel: TypeAlias = asm.Session | asm.Run | asm.Event | asm.Artifact
MODELS: list[Any] = [asm.Session, asm.Run, asm.Event, asm.Artifact]
PREFIXES = {asm.Session: "ses_", asm.Run: "run_", asm.Event: "evt_", asm.Artifact: "art_"}
INTEGER_MAX = 2**63 - 1
LATER = datetime(2025, 6, 1, 12, 30, 15, 123_456, tzinfo=UTC)
DOCUMENT = {"z": [1, {"a": None}], "a": "\0\ud800", "n": 2**70}

PROMISED = {
    asm.Session: (
        "(*, id, agent_id, status='pending', parent_session_id=None, metadata, context, tags=(), "
        "created_at, updated_at, deleted_at=None)"
    ),
    asm.Run: (
        "(*, id, session_id, status='pending', input=None, output=None, error=None, metadata, "
        "turn_count=0, token_usage, started_at, ended_at=None, provider=None, provider_metadata, "
        "cost_usd=None)"
    ),
    asm.Event: (
        "(*, id, type, timestamp, session_id, run_id=None, sequence_number=None, data, metadata, "
        "schema_version=1, provider=None, correlation_id=None)"
    ),
    asm.Artifact: (
        "(*, id, session_id=None, run_id=None, key, content_type=None, byte_size, checksum_sha256, "
        "storage_backend, storage_ref, metadata, created_at, deleted_at=None)"
    ),
}


def minimal(model: Any, **fields: Any) -> Any:
    """A model with its required fields only, apart from those given."""
    required: dict[Any, dict[str, Any]] = {
        asm.Session: {"agent_id": "agent"},
        asm.Run: {"session_id": "ses_1"},
        asm.Event: {"type": "message_sent", "session_id": "ses_1"},
        asm.Artifact: {
            "key": "k",
            "byte_size": 1,
            "checksum_sha256": "0" * 64,
            "storage_backend": "s3",
            "storage_ref": "s3://b/k",
        },
    }
    return model(**(required[model] | fields))


FULL: list[AnyModel] = [
    asm.Session(
        id="ses_full",
        agent_id="agent",
        status="paused",
        parent_session_id="ses_0",
        metadata=DOCUMENT,
        context={"c": 1},
        tags=("a", "b"),
        created_at=LATER,
        updated_at=LATER,
        deleted_at=LATER,
    ),
    asm.Run(
        id="run_full",
        session_id="ses_1",
        status="failed",
        input=[1],
        output="text",
        error=DOCUMENT,
        metadata=DOCUMENT,
        turn_count=3,
        token_usage={"input_tokens": 10**12},
        started_at=LATER,
        ended_at=LATER,
        provider="claude",
        provider_metadata={"model": "m"},
        cost_usd=0.25,
    ),
    asm.Event(
        id="evt_full",
        type="acme.plan_updated",
        timestamp=LATER,
        session_id="ses_1",
        run_id="run_1",
        sequence_number=7,
        data=DOCUMENT,
        metadata={"m": 1},
        schema_version=2,
        provider="claude",
        correlation_id="c",
    ),
    asm.Artifact(
        id="art_full",
        session_id="ses_1",
        run_id="run_1",
        key="k",
        content_type="text/plain",
        byte_size=2**53 - 1,
        checksum_sha256="0" * 64,
        storage_backend="s3",
        storage_ref="s3://b/k",
        metadata=DOCUMENT,
        created_at=LATER,
        deleted_at=LATER,
    ),
]
EVERY = [*FULL, *(minimal(model) for model in MODELS)]
NAMES = [
    f"{kind} {type(model).__name__}"
    for model, kind in zip(EVERY, ["full"] * 4 + ["minimal"] * 4, strict=True)
]


def row_of(model: AnyModel) -> Any:
    """The same model, made by the constructor for rows of a database."""
    values = [getattr(model, field.name) for field in dataclasses.fields(model)]
    return models.from_rows(type(model))(*values)


# Signatures and attributes.


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_the_promised_signature(model: Any) -> None:
    parameters = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default=inspect.Parameter.empty
            if "factory" in repr(parameter.default)
            else _shown(parameter.default),
        )
        for parameter in inspect.signature(model).parameters.values()
    ]

    assert str(inspect.Signature(parameters)) == PROMISED[model]


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_model_is_frozen(model: AnyModel) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.id = "other"  # type: ignore[misc]


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_model_has_no_dict(model: AnyModel) -> None:
    assert not hasattr(model, "__dict__")


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_an_attribute_that_is_not_a_field_cannot_be_set(model: Any) -> None:
    # Python 3.11 raises TypeError: the __setattr__ of a frozen dataclass refers to the class without slots.
    with pytest.raises((AttributeError, TypeError)):
        model.surprise = 1


@pytest.mark.parametrize("model", MODELS)
def test_a_model_takes_its_fields_by_keyword_only(model: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        model("one")


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_equal_models_have_equal_hashes(model: AnyModel) -> None:
    assert {model: 1}[copy.deepcopy(model)] == 1


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_model_survives_pickling(model: AnyModel) -> None:
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_copied_model_is_equal(model: AnyModel) -> None:
    assert copy.copy(model) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_replacing_a_field_keeps_the_others(model: AnyModel) -> None:
    replaced = dataclasses.replace(model, id="other")

    assert dataclasses.replace(replaced, id=model.id) == model


@pytest.mark.parametrize("model", MODELS)
def test_models_do_not_share_their_default_documents(model: Any) -> None:
    assert minimal(model).metadata is not minimal(model).metadata


# Dicts.


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_from_dict_restores_a_model(model: AnyModel) -> None:
    assert type(model).from_dict(model.to_dict()) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_from_dict_restores_a_model_from_json_text(model: AnyModel) -> None:
    assert type(model).from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_dict_has_the_fields_in_their_order(model: AnyModel) -> None:
    assert list(model.to_dict()) == [field.name for field in dataclasses.fields(model)]


def test_times_are_iso_8601_in_a_dict() -> None:
    assert (
        minimal(asm.Session, created_at=LATER).to_dict()["created_at"] == "2025-06-01T12:30:15.123456+00:00"
    )


def test_statuses_and_types_are_plain_strings_in_a_dict() -> None:
    event, run = minimal(asm.Event).to_dict(), minimal(asm.Run).to_dict()

    assert (type(event["type"]), type(run["status"])) == (str, str)


def test_tags_are_a_list_in_a_dict() -> None:
    assert minimal(asm.Session, tags=("a",)).to_dict()["tags"] == ["a"]


def test_a_time_that_ends_in_z_is_read() -> None:
    values = minimal(asm.Session).to_dict() | {"created_at": "2025-06-01T12:30:15Z"}

    assert asm.Session.from_dict(values).created_at == datetime(2025, 6, 1, 12, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize("model", MODELS)
def test_an_unknown_field_is_named(model: Any) -> None:
    with pytest.raises(asm.ValidationError, match="surprise"):
        model.from_dict(minimal(model).to_dict() | {"surprise": 1})


@pytest.mark.parametrize(
    ("model", "field"),
    [(asm.Session, "agent_id"), (asm.Run, "session_id"), (asm.Event, "type"), (asm.Artifact, "key")],
)
def test_a_missing_field_is_named(model: Any, field: str) -> None:
    values = minimal(model).to_dict()
    del values[field]

    with pytest.raises(asm.ValidationError, match=field):
        model.from_dict(values)


@pytest.mark.parametrize("values", [None, [], "text", 3], ids=repr)
def test_from_dict_takes_a_dict_only(values: Any) -> None:
    with pytest.raises(asm.ValidationError, match="takes a dict"):
        asm.Session.from_dict(values)


def test_a_time_that_is_not_iso_8601_is_refused_with_its_name() -> None:
    with pytest.raises(asm.ValidationError, match="created_at"):
        asm.Session.from_dict(minimal(asm.Session).to_dict() | {"created_at": "yesterday"})


def test_from_dict_checks_values_like_the_constructor() -> None:
    with pytest.raises(asm.InvalidStatus):
        asm.Session.from_dict(minimal(asm.Session).to_dict() | {"status": "sleeping"})


# Ids.


@pytest.mark.parametrize("model", MODELS)
def test_a_generated_id_is_a_prefix_and_32_hex_digits(model: Any) -> None:
    assert re.fullmatch(PREFIXES[model] + "[0-9a-f]{32}", minimal(model).id)


@pytest.mark.parametrize("model", MODELS)
def test_generated_ids_differ(model: Any) -> None:
    assert len({minimal(model).id for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("model", MODELS)
def test_generated_ids_grow_with_time(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + 1_000, 2_000_000_000 * 10**9])
    monkeypatch.setattr("asm.models.time.time_ns", lambda: next(moments))

    ids = [minimal(model).id for _ in range(3)]

    assert ids == sorted(ids)


TEXTS = [
    *((model, "id") for model in MODELS),
    *((asm.Session, name) for name in ("agent_id", "parent_session_id")),
    *((asm.Run, name) for name in ("session_id", "provider")),
    *((asm.Event, name) for name in ("session_id", "run_id", "provider", "correlation_id")),
    *((asm.Artifact, name) for name in ("session_id", "run_id", "key")),
]


@pytest.mark.parametrize(("model", "name"), TEXTS)
@pytest.mark.parametrize("value", ["x", "ü" * 255, "🎉" * 255, "with space", "'; --", "%s", "\x01"])
def test_a_text_may_have_up_to_255_characters(model: Any, name: str, value: str) -> None:
    assert getattr(minimal(model, **{name: value}), name) == value


@pytest.mark.parametrize(("model", "name"), TEXTS)
@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b", "\ud800", 7, b"x", ["x"]], ids=ascii)
def test_a_text_that_a_database_cannot_store_is_refused(model: Any, name: str, value: Any) -> None:
    with pytest.raises(asm.ValidationError, match=name) as refusal:
        minimal(model, **{name: value})

    assert refusal.value.details["path"] == name


def test_a_type_of_the_caller_s_own_has_up_to_255_characters() -> None:
    with pytest.raises(asm.ValidationError, match="type"):
        minimal(asm.Event, type="acme." + "x" * 251)


def test_a_storage_reference_may_have_4096_characters() -> None:
    assert minimal(asm.Artifact, storage_ref="s3://" + "x" * 4_000).storage_ref.endswith("xxx")


@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b", "\udc00", 7])
def test_a_tag_that_a_database_cannot_store_is_refused_with_its_index(value: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        minimal(asm.Session, tags=["good", value])

    assert refusal.value.details["path"] == "tags[1]"


@pytest.mark.parametrize("value", ["pinned", 3, None])
def test_tags_must_be_a_collection(value: Any) -> None:
    with pytest.raises(asm.ValidationError, match="tags"):
        minimal(asm.Session, tags=value)


def test_type_checkers_see_the_types_of_coerced_fields() -> None:
    # mypy checks these assignments.
    session = asm.Session(agent_id="a", tags=["prod"], status="active")
    run = asm.Run(session_id="ses_1", status="completed")
    tags: tuple[str, ...] = session.tags
    status: asm.SessionStatus = session.status
    assert (tags, status, run.status.is_terminal) == (("prod",), asm.SessionStatus.ACTIVE, True)


@pytest.mark.parametrize(
    ("name", "type"), [("tags", tuple[str, ...]), ("status", asm.SessionStatus)], ids=["tags", "status"]
)
def test_type_hints_have_the_types_of_coerced_fields(name: str, type: object) -> None:
    assert get_type_hints(asm.Session)[name] == type


@pytest.mark.parametrize(
    "value", [["a", "b"], ("a", "b"), iter(["a", "b"])], ids=["list", "tuple", "iterator"]
)
def test_tags_become_a_tuple(value: Any) -> None:
    assert minimal(asm.Session, tags=value).tags == ("a", "b")


# Times.

TIMES = [
    (asm.Session, "created_at"),
    (asm.Session, "updated_at"),
    (asm.Session, "deleted_at"),
    (asm.Run, "started_at"),
    (asm.Run, "ended_at"),
    (asm.Event, "timestamp"),
    (asm.Artifact, "created_at"),
    (asm.Artifact, "deleted_at"),
]


@pytest.mark.parametrize(("model", "name"), TIMES)
def test_a_time_in_another_zone_is_converted_to_utc(model: Any, name: str) -> None:
    elsewhere = LATER.astimezone(timezone(timedelta(hours=5, minutes=45)))

    value = getattr(minimal(model, **{name: elsewhere}), name)

    assert (value, value.tzinfo) == (LATER, UTC)


@pytest.mark.parametrize("offset", [timedelta(days=5), "+01:00", RuntimeError("no clock")])
def test_a_time_zone_without_a_valid_offset_is_refused(offset: Any) -> None:
    class Zone(tzinfo):
        def utcoffset(self, _: Any) -> Any:
            if isinstance(offset, Exception):
                raise offset
            return offset

        def dst(self, _: Any) -> None: ...
        def tzname(self, _: Any) -> None: ...

    with pytest.raises(asm.ValidationError, match="created_at has a time zone without a valid offset"):
        asm.Session(agent_id="a", created_at=datetime(2026, 1, 1, tzinfo=Zone()))


@pytest.mark.parametrize(("model", "name"), TIMES)
def test_a_naive_time_is_refused(model: Any, name: str) -> None:
    with pytest.raises(asm.ValidationError, match=name) as refusal:
        minimal(model, **{name: datetime(2025, 1, 1)})

    assert refusal.value.details["path"] == name


@pytest.mark.parametrize("value", ["2025-01-01T00:00:00Z", 1_700_000_000, LATER.date()], ids=repr)
def test_a_value_that_is_not_a_datetime_is_refused(value: Any) -> None:
    with pytest.raises(asm.ValidationError, match="timestamp"):
        minimal(asm.Event, timestamp=value)


@pytest.mark.parametrize("value", [datetime.min, datetime.max], ids=["the first", "the last"])
def test_the_first_and_the_last_datetime_are_accepted(value: datetime) -> None:
    moment = value.replace(tzinfo=UTC)

    assert minimal(asm.Event, timestamp=moment).timestamp == moment


@pytest.mark.parametrize(
    "value",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
    ids=["before the first", "after the last"],
)
def test_a_time_outside_the_years_1_to_9999_in_utc_is_refused(value: datetime) -> None:
    with pytest.raises(asm.ValidationError, match="timestamp"):
        minimal(asm.Event, timestamp=value)


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, name in TIMES if "ed_at" not in name])
def test_the_default_of_a_time_is_now_in_utc(model: Any, name: str) -> None:
    before = datetime.now(UTC)

    value = getattr(minimal(model), name)

    assert before <= value <= datetime.now(UTC)


# Numbers.

COUNTS = [
    (asm.Run, "turn_count", INTEGER_MAX),
    (asm.Event, "schema_version", INTEGER_MAX),
    (asm.Event, "sequence_number", INTEGER_MAX),
    (asm.Artifact, "byte_size", 2**53 - 1),
]


@pytest.mark.parametrize(("model", "name", "maximum"), COUNTS)
def test_a_count_is_from_0_to_its_maximum(model: Any, name: str, maximum: int) -> None:
    for value in (0, 1, 2**31, maximum):
        assert getattr(minimal(model, **{name: value}), name) == value

    with pytest.raises(asm.ValidationError, match=f"{name} must be from 0 to {maximum:,}, not {maximum + 1}"):
        minimal(model, **{name: maximum + 1})


@pytest.mark.parametrize(("model", "name"), [each[:2] for each in COUNTS])
@pytest.mark.parametrize(
    "value",
    [-1, 2**63, 10**5_000, True, 1.0, "1", math.nan],
    ids=["-1", "2^63", "huge", *("True", "1.0", "text", "NaN")],
)
def test_a_value_that_is_not_a_count_is_refused(model: Any, name: str, value: Any) -> None:
    with pytest.raises(asm.ValidationError, match=name) as refusal:
        minimal(model, **{name: value})

    assert refusal.value.details["path"] == name


@pytest.mark.parametrize(("value", "kept"), [(0, 0.0), (3, 3.0), (0.25, 0.25), (10**9, 1e9), (None, None)])
def test_a_cost_is_a_float_or_none(value: Any, kept: float | None) -> None:
    cost = minimal(asm.Run, cost_usd=value).cost_usd

    assert (cost, type(cost)) == (kept, type(kept))


@pytest.mark.parametrize(
    "value",
    [-0.01, math.nan, math.inf, -math.inf, True, "1.50", 1_000_000_000.1, 10**400],
    ids=["negative", "NaN", "infinity", "minus infinity", "True", "text", "too large", "huge"],
)
def test_a_value_that_is_not_a_cost_is_refused(value: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        minimal(asm.Run, cost_usd=value)

    assert refusal.value.details["path"] == "cost_usd"


def test_a_cost_above_its_maximum_is_refused_with_the_maximum() -> None:
    with pytest.raises(asm.ValidationError, match="cost_usd must be from 0 to 1,000,000,000, not 1000000001"):
        minimal(asm.Run, cost_usd=10**9 + 1)


# Statuses and types.


@pytest.mark.parametrize("status", list(asm.SessionStatus))
def test_a_session_accepts_each_status_as_a_plain_string(status: asm.SessionStatus) -> None:
    assert minimal(asm.Session, status=str(status)).status is status


@pytest.mark.parametrize("status", list(asm.RunStatus))
def test_a_run_accepts_each_status_as_a_plain_string(status: asm.RunStatus) -> None:
    assert minimal(asm.Run, status=str(status)).status is status


def test_the_statuses_of_a_session_are_the_promised_ones() -> None:
    assert [*asm.SessionStatus] == ["pending", "active", "paused", "completed", "failed", "cancelled"]


def test_the_statuses_of_a_run_are_the_promised_ones() -> None:
    assert [*asm.RunStatus] == ["pending", "running", "completed", "failed", "cancelled", "timeout"]


EVENT_TYPES = [
    *("session_created", "session_started", "session_paused", "session_resumed"),
    *("session_completed", "session_failed", "session_cancelled"),
    *("run_started", "run_completed", "run_failed", "run_cancelled", "run_timeout"),
    *("message_sent", "message_received", "message_streamed"),
    *("tool_call_started", "tool_call_completed", "tool_call_failed"),
    *("error_occurred", "error_recovered", "token_usage_updated", "turn_completed"),
    *("workspace_snapshot_taken", "workspace_diff_computed", "policy_violation"),
    *("tool_approval_requested", "tool_approval_granted", "tool_approval_denied"),
]


def test_the_event_types_are_the_promised_ones() -> None:
    assert [*asm.EventType] == EVENT_TYPES


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_an_event_accepts_each_type_as_a_plain_string(type: str) -> None:
    assert minimal(asm.Event, type=type).type is asm.EventType(type)


@pytest.mark.parametrize("status", ["sleeping", "ACTIVE", "running", "", None, 1, ["active"]], ids=repr)
def test_an_unknown_status_of_a_session_is_refused_with_the_known_ones(status: Any) -> None:
    with pytest.raises(asm.InvalidStatus, match="pending, active, paused"):
        minimal(asm.Session, status=status)


@pytest.mark.parametrize("status", ["sleeping", "active", "paused", None], ids=repr)
def test_an_unknown_status_of_a_run_is_refused_with_the_known_ones(status: Any) -> None:
    with pytest.raises(asm.InvalidStatus, match="pending, running, completed"):
        minimal(asm.Run, status=status)


@pytest.mark.parametrize("type", ["mesage_sent", "MESSAGE_SENT", "", None, 3, ["a.b"]], ids=repr)
def test_an_unknown_event_type_without_a_dot_is_refused(type: Any) -> None:
    with pytest.raises(asm.InvalidEventType, match="with a dot in it"):
        minimal(asm.Event, type=type)


@pytest.mark.parametrize("type", ["acme.plan_updated", "a.b.c", "."])
def test_an_event_type_with_a_dot_is_accepted(type: str) -> None:
    assert minimal(asm.Event, type=type).type == type


@pytest.mark.parametrize("statuses", [asm.SessionStatus, asm.RunStatus, asm.EventType])
def test_each_member_has_a_docstring_of_its_own(statuses: Any) -> None:
    docs = [member.__doc__ for member in statuses]

    assert (len({*docs, statuses.__doc__}), docs) == (len(docs) + 1, [doc.strip() for doc in docs])


def test_the_docstring_of_an_event_type_names_the_keys_of_its_data() -> None:
    assert "`{name, input}`" in (asm.EventType.TOOL_CALL_STARTED.__doc__ or "")


@pytest.mark.parametrize(
    ("model", "fields", "suggestion"),
    [
        (
            asm.Event,
            {"type": "mesage_sent"},
            "'mesage_sent' is not an event type (did you mean 'message_sent'?)",
        ),
        (asm.Event, {"type": "MESSAGE_SENT"}, "(did you mean 'message_sent'?)"),
        (asm.Session, {"status": "canceled"}, "(did you mean 'cancelled'?): use one of pending, active"),
        (asm.Run, {"status": "complete"}, "'complete' is not a status of a run (did you mean 'completed'?)"),
    ],
)
def test_a_misspelled_value_is_refused_with_the_nearest_known_one(
    model: Any, fields: dict[str, Any], suggestion: str
) -> None:
    with pytest.raises(asm.ValidationError, match=re.escape(suggestion)):
        minimal(model, **fields)


@pytest.mark.parametrize("type", ["zzz", "x" * 1_000_000, None, 3])
def test_a_value_that_is_like_no_known_one_is_refused_without_a_suggestion(type: Any) -> None:
    with pytest.raises(asm.InvalidEventType) as refusal:
        minimal(asm.Event, type=type)

    assert "did you mean" not in str(refusal.value)


def test_a_misspelled_field_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(
        asm.ValidationError, match=r"no field 'agentid' \(did you mean 'agent_id'\?\); it has id,"
    ):
        asm.Session.from_dict({"agentid": "a"})


# Updates.


def test_a_new_session_was_updated_when_it_was_created() -> None:
    session = minimal(asm.Session)

    assert session.updated_at == session.created_at


def test_updated_at_is_now_for_a_session_that_was_created_earlier() -> None:
    before = datetime.now(UTC)

    assert minimal(asm.Session, created_at=LATER).updated_at >= before


def test_updating_the_status_of_a_session_sets_updated_at() -> None:
    session = minimal(asm.Session, updated_at=datetime(2020, 1, 1, tzinfo=UTC))
    before = datetime.now(UTC)

    updated = session.update_status("active")

    assert (updated.status, updated.updated_at >= before) == (asm.SessionStatus.ACTIVE, True)


def test_updating_the_status_does_not_change_the_original_session() -> None:
    session = minimal(asm.Session)

    session.update_status("active")

    assert session.status == "pending"


def test_a_session_refuses_an_unknown_status() -> None:
    with pytest.raises(asm.InvalidStatus):
        minimal(asm.Session).update_status("sleeping")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timeout"])
def test_a_terminal_status_sets_ended_at(status: str) -> None:
    before = datetime.now(UTC)

    ended_at = minimal(asm.Run).update_status(status).ended_at

    assert before <= ended_at <= datetime.now(UTC)


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_status_that_is_not_terminal_does_not_set_ended_at(status: str) -> None:
    assert minimal(asm.Run).update_status(status).ended_at is None


def test_a_terminal_status_does_not_change_ended_at() -> None:
    assert minimal(asm.Run, ended_at=LATER).update_status("failed").ended_at == LATER


def test_a_run_refuses_an_unknown_status() -> None:
    with pytest.raises(asm.InvalidStatus):
        minimal(asm.Run).update_status("active")


def test_set_output_completes_the_run_and_sets_ended_at() -> None:
    before = datetime.now(UTC)

    run = minimal(asm.Run, status="running").set_output([1, "two"])

    assert (run.output, run.status) == ([1, "two"], asm.RunStatus.COMPLETED)
    assert before <= run.ended_at <= datetime.now(UTC)


def test_set_error_fails_the_run_and_sets_ended_at() -> None:
    before = datetime.now(UTC)

    run = minimal(asm.Run, status="running").set_error({"message": "no"})

    assert (run.error, run.status) == ({"message": "no"}, asm.RunStatus.FAILED)
    assert before <= run.ended_at <= datetime.now(UTC)


def test_set_output_and_set_error_do_not_change_ended_at() -> None:
    run = minimal(asm.Run, ended_at=LATER)

    assert (run.set_output(1).ended_at, run.set_error(1).ended_at) == (LATER, LATER)


def test_an_output_that_is_not_json_is_refused() -> None:
    with pytest.raises(asm.ValidationError, match="output"):
        minimal(asm.Run).set_output({1})


def test_increment_turn_adds_one_to_turn_count() -> None:
    assert minimal(asm.Run, turn_count=4).increment_turn().turn_count == 5


def test_increment_turn_does_not_exceed_the_column() -> None:
    with pytest.raises(asm.ValidationError, match="turn_count"):
        minimal(asm.Run, turn_count=INTEGER_MAX).increment_turn()


USAGES = [
    ({}, {"input_tokens": 3}, {"input_tokens": 3}),
    ({"input_tokens": 3}, {"input_tokens": 4, "output_tokens": 1}, {"input_tokens": 7, "output_tokens": 1}),
    ({"input_tokens": 2**31}, {"input_tokens": 2**31}, {"input_tokens": 2**32}),
    ({"input_tokens": 1, "total_tokens": 5}, {"input_tokens": 2}, {"input_tokens": 3, "total_tokens": 7}),
    (
        {"input_tokens": 1, "output_tokens": 2},
        {"total_tokens": 9},
        {"input_tokens": 1, "output_tokens": 2, "total_tokens": 12},
    ),
    ({"prompt_tokens": 3}, {"prompt_tokens": 4}, {"input_tokens": 7}),
    ({"prompt_tokens": "unknown"}, {"input_tokens": 4}, {"input_tokens": 4, "prompt_tokens": "unknown"}),
    ({"kept": 1}, {}, {"kept": 1}),
    ({"kept": 1}, {"input_tokens": None, "other": None}, {"kept": 1}),
]


@pytest.mark.parametrize(("before", "usage", "after"), USAGES)
def test_update_token_usage_adds_numbers_key_by_key(before: Any, usage: Any, after: Any) -> None:
    assert minimal(asm.Run, token_usage=before).update_token_usage(usage).token_usage == after


OTHERS = [
    ({"seconds": 0.5}, {"seconds": 1}, {"seconds": 1.5}),
    ({"details": {"audio": 1, "text": 2}}, {"details": {"audio": 3}}, {"details": {"audio": 4, "text": 2}}),
    ({"model": "a"}, {"model": "b"}, {"model": "b"}),
    ({"cached": True}, {"cached": True}, {"cached": True}),
    ({"model": "a"}, {"model": 3}, {"model": 3}),
    ({"n": 3}, {"n": None}, {"n": 3}),
    ({"list": [1]}, {"list": [2]}, {"list": [2]}),
]


@pytest.mark.parametrize(("before", "usage", "after"), OTHERS)
def test_update_token_usage_adds_numbers_under_other_keys(before: Any, usage: Any, after: Any) -> None:
    run = minimal(asm.Run, token_usage={"output_tokens": 1} | before)

    assert run.update_token_usage({"output_tokens": 2} | usage).token_usage == {"output_tokens": 3} | after


@pytest.mark.parametrize("usage", [{"tokens": 3}, {"seconds": 1}, {"model": "a", "input_tokens": None}])
def test_update_token_usage_refuses_a_usage_without_a_known_count(usage: Any) -> None:
    with pytest.raises(asm.ValidationError, match="no token count under a known name"):
        minimal(asm.Run).update_token_usage(usage)


def test_update_token_usage_does_not_change_the_original_run() -> None:
    run = minimal(asm.Run, token_usage={"input_tokens": 1})

    run.update_token_usage({"input_tokens": 1})

    assert run.token_usage == {"input_tokens": 1}


def test_the_sum_of_a_known_token_count_is_bounded() -> None:
    run = minimal(asm.Run, token_usage={"input_tokens": 10**12})

    with pytest.raises(asm.ValidationError, match=r"token_usage\.input_tokens must be from 0 to 1,000"):
        run.update_token_usage({"input_tokens": 1})


@pytest.mark.parametrize(("before", "more"), [({"n": 0.5}, {"n": 10**400}), ({"n": 1e308}, {"n": 1e308})])
def test_a_sum_of_token_usage_beyond_a_float_is_refused_with_its_path(before: Any, more: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        minimal(asm.Run, token_usage=before).update_token_usage({"input_tokens": 1} | more)

    assert refusal.value.details["path"] == "token_usage.n"


@pytest.mark.parametrize("usage", [None, [], "text", {"input_tokens": -1}, {1: 2}], ids=repr)
def test_update_token_usage_checks_the_added_usage(usage: Any) -> None:
    with pytest.raises(asm.ValidationError, match="token_usage"):
        minimal(asm.Run).update_token_usage(usage)


COUNTED = ("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_creation_tokens")


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("value", [-1, 1.5, True, "3", 10**12 + 1], ids=repr)
def test_a_known_token_count_that_is_not_a_count_is_refused(name: str, value: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        minimal(asm.Run, token_usage={name: value})

    assert refusal.value.details["path"] == f"token_usage.{name}"


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", [1]], ids=repr)
def test_other_keys_of_token_usage_are_kept(value: Any) -> None:
    assert minimal(asm.Run, token_usage={"acme": value}).token_usage == {"acme": value}


@pytest.mark.parametrize("name", COUNTED)
def test_a_known_token_count_is_from_0_to_10_to_the_12(name: str) -> None:
    for value in (0, 10**12):
        assert minimal(asm.Run, token_usage={name: value}).token_usage == {name: value}

    with pytest.raises(
        asm.ValidationError, match=rf"token_usage\.{name} must be from 0 to 1,000,000,000,000"
    ):
        asm.Run.from_dict({"session_id": "ses_1", "token_usage": {name: 10**12 + 1}})


def test_an_export_with_a_token_count_out_of_bounds_is_refused_with_its_path() -> None:
    run = {"session_id": "ses_1", "token_usage": {"input_tokens": 10**12 + 1}}
    session = {"id": "ses_1", "agent_id": "agent"}

    with pytest.raises(asm.ValidationError, match=r"runs\[0\]: token_usage\.input_tokens must be from 0 to"):
        asm.SessionExport.from_dict({"session": session, "runs": [run]})


def test_a_token_count_that_is_set_in_the_document_of_a_run_is_checked_when_the_run_is_saved() -> None:
    run = minimal(asm.Run)
    run.token_usage["input_tokens"] = 10**12 + 1

    with pytest.raises(asm.ValidationError, match=r"token_usage\.input_tokens must be from 0 to"):
        save_run(run)


def test_input_and_output_tokens_without_a_total_are_bounded_together() -> None:
    with pytest.raises(asm.ValidationError, match="input_tokens"):
        minimal(asm.Run, token_usage={"input_tokens": 10**12, "output_tokens": 1})


TOTALS = [
    ({}, None),
    ({"input_tokens": 3}, 3),
    ({"output_tokens": 4}, 4),
    ({"input_tokens": 0, "output_tokens": 4}, 4),
    ({"input_tokens": 3, "output_tokens": 4}, 7),
    ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 9}, 9),
    ({"input_tokens": 3, "total_tokens": 0}, 0),
    ({"cache_read_tokens": 5}, None),
]


@pytest.mark.parametrize(("usage", "total"), TOTALS)
def test_the_default_total_is_the_sum_of_input_and_output(usage: Any, total: int | None) -> None:
    assert models.token_counts(usage)["total_tokens"] == total


# Rows.


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_is_equal_to_the_model(model: AnyModel) -> None:
    assert row_of(model) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_has_the_class_of_the_model(model: AnyModel) -> None:
    assert type(row_of(model)) is type(model)


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_has_the_hash_of_the_model(model: AnyModel) -> None:
    assert hash(row_of(model)) == hash(model)


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_has_the_repr_of_the_model(model: AnyModel) -> None:
    assert repr(row_of(model)) == repr(model)


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_is_frozen(model: AnyModel) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        row_of(model).id = "other"


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_survives_pickling(model: AnyModel) -> None:
    assert pickle.loads(pickle.dumps(row_of(model))) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_can_be_copied(model: AnyModel) -> None:
    assert copy.deepcopy(row_of(model)) == model


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_field_of_a_row_can_be_replaced(model: AnyModel) -> None:
    assert dataclasses.replace(row_of(model), id="other").id == "other"


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_a_row_has_the_dict_of_the_model(model: AnyModel) -> None:
    assert row_of(model).to_dict() == model.to_dict()


def test_a_row_with_an_extra_column_is_refused() -> None:
    columns = [None] * (len(dataclasses.fields(asm.Event)) + 1)

    with pytest.raises(TypeError):
        models.event_from_row(*columns)


def test_a_row_without_its_last_column_is_refused() -> None:
    columns = [None] * (len(dataclasses.fields(asm.Event)) - 1)

    with pytest.raises(TypeError):
        models.event_from_row(*columns)


# Pages.


def test_a_page_iterates_over_its_items() -> None:
    assert list(asm.Page(items=[1, 2])) == [1, 2]


def test_the_cursor_and_the_total_count_of_a_page_default_to_none() -> None:
    page = asm.Page(items=["one"])

    assert (page.cursor, page.total_count) == (None, None)


def _shown(default: Any) -> Any:
    return str(default) if isinstance(default, asm.SessionStatus | asm.RunStatus) else default


def test_a_page_is_generic_in_its_items() -> None:
    assert asm.Page[str](items=["one"]) == asm.Page(items=["one"])
