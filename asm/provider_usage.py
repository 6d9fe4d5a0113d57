"""Token usage as the providers' APIs report it, read under one set of names.

Every API has its own names for the same counts, and some count the cached tokens among the input tokens.
`_SHAPES` has the names of each family of APIs. A usage is read in the shape that explains the most of its
values; where two shapes explain different values, the provider decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from asm.documents import Document
from asm.errors import ValidationError
from asm.validation import count, did_you_mean, optional_text, safe_repr

TOKEN_COUNTS = ("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_creation_tokens")
"""The keys of `token_usage` that the store reads. Other keys are stored as they are."""

_OWN_NAMES = frozenset(TOKEN_COUNTS)

TOKENS_MAX = 10**12

LEVELS_MAX = 4
"""Levels of a provider's usage in which objects are read and numbers are added."""

Counts: TypeAlias = dict[str, int]
Path: TypeAlias = tuple[str, ...]


def token_usage(usage: Any, *, provider: str | None = None) -> Counts:
    """The token counts of a provider's own usage, under the five names that the store knows.

    `usage` is a mapping or an object of the provider's SDK (with `model_dump`, or a dataclass), as
    Anthropic, OpenAI (chat completions and Responses), Google, Bedrock, LangChain, Pydantic AI and the
    Vercel AI SDK report it, in snake_case or camelCase; or it has the store's own names already. The
    result has those of `input_tokens`, `output_tokens`, `total_tokens`, `cache_read_tokens` and
    `cache_creation_tokens` that `usage` tells. None is absent, and other keys are left out.

    Cached tokens count beside `input_tokens`: where a provider counts them among its input tokens, they
    are subtracted from these. Tokens of reasoning are output tokens. `total_tokens` is the provider's own.

    The names in `usage` decide how it is read. `provider` decides only where the names of two providers
    occur together with different counts; without it, that is a ValidationError. So is a mapping without
    any known name, a count that is not a whole number from 0 to 10^12, and a number of cached tokens
    that exceeds the input tokens which include it.
    """
    return read_counts(read_document(usage, "usage"), "usage", optional_text(provider, "provider"))


# The names that providers give the counts.


def _spellings(*names: str) -> tuple[Path, ...]:
    """The paths of these names, as in "a_b.c_d", in snake_case and in camelCase."""
    snake = [tuple(name.split(".")) for name in names]
    return tuple(dict.fromkeys(each for path in snake for each in (path, tuple(map(_camel, path)))))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


class _Shape(NamedTuple):
    """The names of one family of APIs.

    A count is the sum of its terms, each of which is at the first of its paths that has a value.
    """

    title: str
    providers: tuple[str, ...]
    """A provider whose name contains one of these reports usage in this shape."""
    terms: Mapping[str, tuple[tuple[Path, ...], ...]]
    cached_inside: bool
    """Whether the input tokens include the cached ones."""
    marker: Path | None = None
    """A path without which a usage does not have this shape."""


_PLAIN = {name: (_spellings(name),) for name in TOKEN_COUNTS[:3]}

_SHAPES = (
    _Shape(
        "Anthropic",
        ("anthropic", "claude", "bedrock"),
        {
            **_PLAIN,
            "cache_read_tokens": (_spellings("cache_read_tokens", "cache_read_input_tokens"),),
            "cache_creation_tokens": (
                _spellings(
                    "cache_creation_tokens", "cache_creation_input_tokens", "cache_write_input_tokens"
                ),
            ),
        },
        cached_inside=False,
    ),
    _Shape(
        "OpenAI Responses",
        ("openai", "codex", "azure", "langchain", "vercel"),
        {
            **_PLAIN,
            "cache_read_tokens": (
                _spellings(
                    "input_tokens_details.cached_tokens",
                    "input_token_details.cached_tokens",
                    "input_token_details.cache_read",
                    "input_token_details.cache_read_tokens",
                    "cached_input_tokens",
                ),
            ),
            "cache_creation_tokens": (
                _spellings(
                    "input_tokens_details.cache_write_tokens",
                    "input_token_details.cache_creation",
                    "input_token_details.cache_write_tokens",
                ),
                # LangChain sets cache_creation to 0 where it reports these two.
                _spellings("input_token_details.ephemeral_5m_input_tokens"),
                _spellings("input_token_details.ephemeral_1h_input_tokens"),
            ),
        },
        cached_inside=True,
    ),
    _Shape(
        "Pydantic AI",
        ("pydantic",),
        {
            **_PLAIN,
            "cache_read_tokens": (_spellings("cache_read_tokens"),),
            "cache_creation_tokens": (_spellings("cache_write_tokens"),),
        },
        cached_inside=True,
        # Without it, `cache_read_tokens` is the store's own name, and beside the input tokens.
        marker=("cache_write_tokens",),
    ),
    _Shape(
        "OpenAI chat completions",
        ("openai", "azure"),
        {
            "input_tokens": (_spellings("prompt_tokens"),),
            "output_tokens": (_spellings("completion_tokens"),),
            "total_tokens": (_spellings("total_tokens"),),
            # LiteLLM repeats the cached tokens under Anthropic's names, and includes them in prompt_tokens.
            "cache_read_tokens": (
                _spellings("prompt_tokens_details.cached_tokens", "cache_read_input_tokens"),
            ),
            "cache_creation_tokens": (
                _spellings(
                    "prompt_tokens_details.cache_write_tokens",
                    "prompt_tokens_details.cache_creation_tokens",
                    "cache_creation_input_tokens",
                ),
            ),
        },
        cached_inside=True,
    ),
    _Shape(
        "Google",
        ("google", "gemini", "vertex"),
        {
            "input_tokens": (_spellings("prompt_token_count"), _spellings("tool_use_prompt_token_count")),
            "output_tokens": (
                _spellings("candidates_token_count", "response_token_count"),
                _spellings("thoughts_token_count"),
            ),
            "total_tokens": (_spellings("total_token_count"),),
            "cache_read_tokens": (_spellings("cached_content_token_count"),),
        },
        cached_inside=True,
    ),
)

_PATHS = {
    shape.title: frozenset(path for terms in shape.terms.values() for paths in terms for path in paths)
    for shape in _SHAPES
}
_KNOWN_PATHS = frozenset[Path]().union(*_PATHS.values())

_KNOWN_SHAPES = (
    "asm's {input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens}, "
    "Anthropic's {input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens}, "
    "OpenAI's {prompt_tokens, completion_tokens, prompt_tokens_details} or "
    "{input_tokens, output_tokens, input_tokens_details}, "
    "Google's {prompt_token_count, candidates_token_count, thoughts_token_count, "
    "cached_content_token_count}, "
    "Bedrock's {inputTokens, outputTokens, cacheReadInputTokens, cacheWriteInputTokens} or "
    "LangChain's {input_tokens, output_tokens, input_token_details}"
)


# Reading a provider's usage.


def read_document(usage: Any, name: str) -> Document:
    """The usage as a dict of dicts, without what is None."""
    document = _without_objects(usage, LEVELS_MAX)
    if not isinstance(document, dict):
        raise ValidationError(
            f"{name} must be a mapping, or an object of a provider's SDK with model_dump(), "
            f"not {type(usage).__name__}",
            path=name,
        )
    return document


def _without_objects(value: Any, levels: int) -> Any:
    if type(value) in _PLAIN_TYPES or levels == 0:
        return value
    if isinstance(value, str) and isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_without_objects(each, levels - 1) for each in value]
    attributes = _attributes(value)
    if attributes is None:
        return value
    return {key: _without_objects(each, levels - 1) for key, each in attributes.items() if each is not None}


_PLAIN_TYPES = frozenset({int, float, str, bool})


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """The attributes of an SDK's object by name, the items of a mapping, None for anything else."""
    if isinstance(value, type):
        return None
    if callable(dump := getattr(value, "model_dump", None)):
        value = dump()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    return value if isinstance(value, Mapping) else None


def other_keys(document: Document) -> Document:
    """The document without the counts that have a known name."""
    others: Document = {}
    for key, value in document.items():
        if (key,) in _KNOWN_PATHS:
            continue
        if isinstance(value, dict) and value:
            value = {inner: each for inner, each in value.items() if (key, inner) not in _KNOWN_PATHS}
            if not value:
                # A dict that had nothing but counts is left out.
                continue
        others[key] = value
    return others


class _Reading(NamedTuple):
    """A usage read in one shape."""

    shape: _Shape
    counts: Counts
    paths: Set[Path]
    """The paths that have a value."""
    counted: Set[Path]
    """The paths that have a value other than 0."""

    def explains_more_than(self, other: _Reading) -> bool:
        if self.counted == other.counted:
            return self.paths > other.paths
        return self.counted > other.counted


def read_counts(document: Document, name: str, provider: str | None) -> Counts:
    """The counts of a usage, read in the shape that explains the most of its values."""
    if not document:
        return {}
    values = _known_values(document, name)
    if not values:
        raise _unknown_shape(document, name)
    if document.keys() <= _OWN_NAMES:
        # Most usages that are added to another have been read already.
        return {key: values[key,] for key in TOKEN_COUNTS if (key,) in values}
    readings = [found for shape in _SHAPES if (found := _read_as(shape, values))]
    best = [each for each in readings if not any(other.explains_more_than(each) for other in readings)]
    possible = [each for each in best if _cached(each.counts) <= _input_limit(each)]
    if not possible:
        raise _too_many_cached(best[0], name)
    counts = [_beside(each) for each in _settled(possible, provider)]
    if any(each != counts[0] for each in counts):
        raise _ambiguous(possible, name)
    return {
        key: count(counts[0][key], f"{name}.{key}", TOKENS_MAX) for key in TOKEN_COUNTS if key in counts[0]
    }


def _known_values(document: Document, name: str) -> dict[Path, int]:
    """The counts under known names, by their paths."""
    values: dict[Path, Any] = {}
    for key, value in document.items():
        values[(key,)] = value
        if isinstance(value, dict):
            values |= {(key, inner): each for inner, each in value.items()}
    return {
        path: count(value, f"{name}.{'.'.join(path)}", TOKENS_MAX)
        for path, value in values.items()
        if path in _KNOWN_PATHS and value is not None
    }


def _read_as(shape: _Shape, known: Mapping[Path, int]) -> _Reading | None:
    values = {path: value for path, value in known.items() if path in _PATHS[shape.title]}
    if not values or (shape.marker and shape.marker not in values):
        return None
    counts = {}
    for key, terms in shape.terms.items():
        found = [value for paths in terms if (value := _first(paths, values)) is not None]
        if found:
            counts[key] = sum(found)
    return _Reading(shape, counts, values.keys(), {path for path, value in values.items() if value})


def _first(paths: tuple[Path, ...], values: Mapping[Path, int]) -> int | None:
    return next((values[path] for path in paths if path in values), None)


def _cached(counts: Counts) -> int:
    return counts.get("cache_read_tokens", 0) + counts.get("cache_creation_tokens", 0)


def _input_limit(reading: _Reading) -> float:
    """The most tokens that can be cached."""
    return reading.counts.get("input_tokens", float("inf")) if reading.shape.cached_inside else float("inf")


def _settled(readings: list[_Reading], provider: str | None) -> list[_Reading]:
    """The readings in the provider's shape; all of them, if the provider has none of these shapes."""
    names = (provider or "").lower()
    return [each for each in readings if any(own in names for own in each.shape.providers)] or readings


def _beside(reading: _Reading) -> Counts:
    """The counts, with the cached tokens beside the input tokens."""
    counts = reading.counts
    cached = _cached(counts)
    if not (reading.shape.cached_inside and cached and "input_tokens" in counts):
        return counts
    return {
        **counts,
        "input_tokens": counts["input_tokens"] - cached,
        "total_tokens": total_of(counts),
    }


def total_of(counts: Counts) -> int:
    """The total that a provider reports, else the sum of the input and output tokens."""
    return counts.get("total_tokens", counts.get("input_tokens", 0) + counts.get("output_tokens", 0))


def _unknown_shape(document: Document, name: str) -> ValidationError:
    keys = list(document)[:10]
    hint = next((hint for key in keys if (hint := did_you_mean(key, _KNOWN_KEYS))), "")
    return ValidationError(
        f"{name} has no token count under a known name{hint}; it has {', '.join(map(safe_repr, keys))}: "
        f"give it as {_KNOWN_SHAPES}",
        path=name,
    )


_KNOWN_KEYS = sorted(path[0] for path in _KNOWN_PATHS if len(path) == 1)


def _too_many_cached(reading: _Reading, name: str) -> ValidationError:
    cached, input_tokens = _cached(reading.counts), reading.counts["input_tokens"]
    return ValidationError(
        f"{name} has {cached:,} cached tokens, more than the {input_tokens:,} input tokens that include "
        f"them in a usage of {reading.shape.title}: give the counts as {', '.join(TOKEN_COUNTS)}",
        path=name,
    )


def _ambiguous(readings: list[_Reading], name: str) -> ValidationError:
    titles = " and of ".join(dict.fromkeys(each.shape.title for each in readings))
    providers = ", ".join(dict.fromkeys(each.shape.providers[0] for each in readings))
    return ValidationError(
        f"{name} has the names of {titles}, and they differ in their counts: say whose it is with "
        f"the provider, as in asm.token_usage(usage, provider=…), one of {providers}",
        path=name,
    )
