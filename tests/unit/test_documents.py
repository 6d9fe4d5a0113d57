"""Documents are loaded equal to what was dumped, or refused with the path of the value that is not JSON."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import json
import math
import sys
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

from asm import Event, Run, Session, ValidationError, documents
from asm.content.fields import as_text
from asm.documents import DEPTH_MAX, dump, dump_object, load, parse

LONGEST = 10**4_300 - 1
"""An integer of 4,300 digits, the most that Python converts to text by default."""


LIMITS = (0, 640, 4_300, 1_000_000)
"""What an application may have set, the lowest and no limit included."""


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture(params=LIMITS)
def digits_limit(request: pytest.FixtureRequest) -> Iterator[int]:
    """A limit of the process for the digits of an integer."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(request.param)
    yield request.param
    sys.set_int_max_str_digits(before)


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def path_of(value: Any, name: str = "data") -> Any:
    with pytest.raises(ValidationError) as refusal:
        dump(value, name)
    return refusal.value.details["path"]


SAME = {
    "nothing": {},
    "null": None,
    "a bare string": "text",
    "a bare number": 3,
    "an empty list": [],
    "empty ones in each other": {"a": [], "b": {}, "c": [{}, [[]]]},
    "booleans next to numbers": [True, False, 1, 0],
    "the largest of 64 bits": [2**63 - 1, -(2**63), 2**64 - 1],
    "beyond 64 bits": [2**64, -(2**63) - 1, 2**200],
    "floats": [0.1, -1.5e300, 5e-324, 1.7976931348623157e308, 1e16, 123456789.123456789],
    "any Unicode": "Grüße 你好 🎉 \u2028\u2029 \x7f \ufeff",
    "controls": "".join(map(chr, range(32))),
    "NUL": "a\0b",
    "NUL in a key": {"a\0b": 1},
    "a lone surrogate": "\ud800",
    "a lone surrogate in a key": {"\udfff": [1]},
    "a surrogate next to a whole pair": "\ud83d 🎉 \ude00",
    "quotes and backslashes": '"\\/\b\f',
    "an empty key": {"": {"": 1}},
    "as deep as it goes": nested(DEPTH_MAX, 1),
    "deeper than orjson": nested(300, "\ud800"),
    "wide": {f"k{n}": n for n in range(5_000)},
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME)
def test_a_document_is_loaded_equal(value: Any) -> None:
    assert load(dump(value, "data")) == value


@pytest.mark.parametrize("value", SAME.values(), ids=SAME)
def test_a_document_is_loaded_equal_from_bytes(value: Any) -> None:
    assert load(dump(value, "data").encode()) == value


@pytest.mark.parametrize(
    "value", [LONGEST, -LONGEST, {"n": [LONGEST]}], ids=["positive", "negative", "nested"]
)
def test_an_integer_of_4_300_digits_is_loaded_equal(value: Any) -> None:
    assert load(dump(value, "data")) == value


@pytest.mark.parametrize("value", [LONGEST + 1, -LONGEST - 1, 10**100_000], ids=["long", "negative", "huge"])
def test_an_integer_of_more_than_4_300_digits_is_refused_with_its_path(value: Any) -> None:
    assert path_of({"items": [1, value]}) == "data.items[1]"


@pytest.mark.usefixtures("digits_limit")
@pytest.mark.parametrize("value", [LONGEST, -LONGEST], ids=["positive", "negative"])
def test_the_longest_integer_is_loaded_equal_whatever_the_limit_of_the_process_is(value: int) -> None:
    text = dump({"n": [value]}, "data")

    assert load(text) == load(text.encode()) == parse(text) == {"n": [value]}


@pytest.mark.usefixtures("digits_limit")
@pytest.mark.parametrize("value", [LONGEST + 1, -LONGEST - 1], ids=["positive", "negative"])
def test_a_longer_integer_is_refused_whatever_the_limit_of_the_process_is(value: int) -> None:
    assert path_of([value]) == "data[0]"


@pytest.mark.usefixtures("digits_limit")
@pytest.mark.parametrize("read", [lambda text: load(f" {text}"), parse], ids=["stored", "of another program"])
@pytest.mark.parametrize("sign", ["", "-"], ids=["positive", "negative"])
@pytest.mark.parametrize("number", [4_301, 2_000_000])
def test_an_integer_of_too_many_digits_is_refused_before_it_is_converted(
    read: Any, sign: str, number: int
) -> None:
    # To convert two million digits takes longer than the timeout of a test.
    with pytest.raises(ValidationError, match=f"an integer of {number:,} digits"):
        read(f'{{"n": [{sign}{"7" * number}]}}')


@pytest.mark.usefixtures("digits_limit")
def test_the_longest_integer_is_shown_whatever_the_limit_of_the_process_is() -> None:
    assert str(as_text([LONGEST])).count("9") == 4_300


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_not_json_is_refused_in_a_text_of_another_program(constant: str) -> None:
    with pytest.raises(ValidationError, match=f"{constant} is not a JSON number"):
        parse(f'{{"n": {constant}}}')


@pytest.mark.parametrize("text", ['{"n": 1', "[1,]", ""])
def test_a_text_of_another_program_that_is_not_json_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as refusal:
        parse(text)

    assert refusal.value.colno == len(text) + (text != "[1,]")


def test_minus_zero_keeps_its_sign() -> None:
    assert math.copysign(1, load(dump([-0.0], "data"))[0]) == -1


def test_minus_zero_keeps_its_sign_next_to_a_value_that_orjson_cannot_encode() -> None:
    assert math.copysign(1, load(dump([-0.0, 2**70], "data"))[0]) == -1


@pytest.mark.parametrize("other", [0, 2**70, "\ud800"])
def test_a_whole_float_stays_a_float(other: Any) -> None:
    assert type(load(dump([1.0, other], "data"))[0]) is float


@pytest.mark.parametrize("other", [0, 2**70, "\ud800"])
def test_true_does_not_become_one(other: Any) -> None:
    assert load(dump([True, other], "data"))[0] is True


@pytest.mark.parametrize("other", [0, 2**70, "\ud800"])
def test_keys_keep_their_order(other: Any) -> None:
    document = {"z": 1, "a": other, "m": {"b": 1, "a": 2}}

    again = load(dump(document, "data"))

    assert (list(again), list(again["m"])) == (["z", "a", "m"], ["b", "a"])


def test_dump_does_not_change_the_value() -> None:
    document = {"a": [1, {"b": 2**70}]}
    before = copy.deepcopy(document)

    dump(document, "data")

    assert document == before


REFUSED = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "bytes": b"bytes",
    "a bytearray": bytearray(b"bytes"),
    "a set": {1},
    "a tuple": (1, 2),
    "an empty tuple": (),
    "a datetime": datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC),
    "a date": datetime.date(2025, 1, 1),
    "a UUID": uuid.UUID(int=1),
    "a Decimal": decimal.Decimal("1.5"),
    "a complex number": 1j,
    "an enum": Colour.RED,
    "an object": object(),
    "a function": len,
    "a model": Session(agent_id="a"),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_value_that_is_not_json_is_refused_with_its_path(value: Any) -> None:
    assert path_of({"items": [{}, {"score": value}]}) == "data.items[1].score"


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_document_that_is_not_json_is_refused_with_its_name(value: Any) -> None:
    assert path_of(value) == "data"


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_value_that_is_not_json_is_refused_next_to_one_that_orjson_cannot_encode(value: Any) -> None:
    assert path_of({"n": 2**70, "items": [value]}) == "data.items[0]"


@pytest.mark.parametrize("key", [1, None, True, 1.5, (1,), b"k", uuid.UUID(int=1)])
def test_a_key_that_is_not_a_string_is_refused_with_the_path_of_its_dict(key: Any) -> None:
    assert path_of({"items": [{key: 1}]}) == "data.items[0]"


@pytest.mark.parametrize("other", [0, 2**70])
def test_a_tuple_is_refused_and_not_turned_into_a_list(other: Any) -> None:
    assert path_of([other, (1,)]) == "data[1]"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (["\ud83d\ude00"], "data[0]"),
        ({"a": ["x \udbff\udc00 y"]}, "data.a[0]"),
        ({"a": {"\ud83d\ude00": 1}}, "data.a"),
        ({"\ud83d\ude00": 1, "\U0001f600": 2}, "data"),
    ],
    ids=["a text", "within a text", "a key", "a key next to the one it would become"],
)
def test_a_surrogate_pair_that_json_would_join_is_refused(value: Any, path: str) -> None:
    assert path_of(value) == path


def test_a_document_nested_too_deep_is_refused_with_its_path() -> None:
    assert path_of(nested(DEPTH_MAX + 1, 1)) == "data" + "[0]" * DEPTH_MAX


def test_a_document_nested_deeper_than_python_s_stack_is_refused() -> None:
    with pytest.raises(ValidationError, match="nested deeper"):
        dump(nested(100_000, 1), "data")


def test_a_list_that_contains_itself_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)

    with pytest.raises(ValidationError, match="nested deeper"):
        dump(cycle, "data")


def test_a_dict_that_contains_itself_is_refused() -> None:
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]

    with pytest.raises(ValidationError, match="nested deeper"):
        dump(cycle, "data")


def test_a_message_shortens_a_long_path() -> None:
    with pytest.raises(ValidationError) as refusal:
        dump(nested(400, b"x"), "data")

    assert len(str(refusal.value)) < 400


def test_a_path_and_its_message_shorten_a_long_key() -> None:
    with pytest.raises(ValidationError) as refusal:
        dump({"K" * 100_000: {"k" * 100_000: [b"x"]}}, "data")

    assert len(str(refusal.value)) < 400
    assert len(refusal.value.details["path"]) < 500
    assert refusal.value.details["path"].startswith("data.KKK")
    assert refusal.value.details["path"].endswith("kkk[0]")


@pytest.mark.parametrize("other", [0, "\ud800"], ids=["encoded by orjson", "not encoded by orjson"])
@pytest.mark.parametrize(
    "rest", [[0] * 600, ["x" * 999], "x" * 1_001], ids=["items", "a text", "only a text"]
)
def test_a_document_is_refused_if_its_text_is_too_long(
    monkeypatch: pytest.MonkeyPatch, other: Any, rest: Any
) -> None:
    monkeypatch.setattr(documents, "DOCUMENT_LENGTH_MAX", 1_000)
    assert dump(["x" * 980, other], "data")

    with pytest.raises(ValidationError, match=r"data is (at least )?1,\d\d\d characters of JSON.*artifact"):
        dump([other, rest], "data")


@pytest.mark.parametrize("value", [[], "text", None, 3], ids=repr)
def test_a_document_that_is_not_a_dict_is_refused_where_it_must_be(value: Any) -> None:
    with pytest.raises(ValidationError, match="must be a dict") as refusal:
        dump_object(value, "metadata")

    assert refusal.value.details["path"] == "metadata"


def test_an_ordered_dict_is_loaded_equal() -> None:
    assert load(dump(OrderedDict(a=1, b=2), "data")) == {"a": 1, "b": 2}


def test_an_event_reports_the_path_within_its_data() -> None:
    with pytest.raises(ValidationError) as refusal:
        Event(type="message_sent", session_id="s", data={"items": [0, 1, 2, {"score": math.nan}]})

    assert refusal.value.details["path"] == "data.items[3].score"


@pytest.mark.parametrize("name", ["input", "output", "error", "metadata", "token_usage", "provider_metadata"])
def test_a_run_reports_the_path_within_each_of_its_documents(name: str) -> None:
    bad: dict[str, Any] = {name: {"x": {1}}}

    with pytest.raises(ValidationError) as refusal:
        Run(session_id="s", **bad)

    assert refusal.value.details["path"] == f"{name}.x"


@pytest.mark.parametrize("name", ["metadata", "context"])
def test_a_session_reports_the_path_within_each_of_its_documents(name: str) -> None:
    bad: dict[str, Any] = {name: {"x": {1}}}

    with pytest.raises(ValidationError) as refusal:
        Session(agent_id="a", **bad)

    assert refusal.value.details["path"] == f"{name}.x"
