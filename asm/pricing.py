"""What tokens cost, in USD per token.

A pricing is a mapping of providers, as JSON and TOML can say it:

    {"claude": {"default": {"input": 3e-6, "output": 15e-6},
                "models": {"claude-opus-5": {"input": 5e-6, "output": 25e-6,
                                             "cache_read": 5e-7, "cache_creation": 6.25e-6}}}}

A model is priced under its exact name, else by the longest name that it begins with, else by the
provider's default; where there is none of these, it has no price. One that is stored as
`provider/model` is looked for without its provider, too. Tokens read from a cache or written to one
are beside the input tokens, not among them; a price that does not name them takes them for input,
which is what they are where nothing is said of caches.

Without a pricing of the caller's own it is that of the file that ASM_PRICING names (.json or
.toml), and without that LIST_PRICES. Each takes the place of the next as a whole, so that what is
given is all that applies; `{**LIST_PRICES, "acme": …}` puts them together.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from asm.errors import ValidationError
from asm.validation import is_number, number, safe_repr

T = TypeVar("T")

ENVIRONMENT_VARIABLE = "ASM_PRICING"

Pricing: TypeAlias = Mapping[str, Mapping[str, Any]]
PricedBy: TypeAlias = Literal["cost_usd", "exact", "prefix", "default"]
"""A run's own cost, the model's exact name, the longest name it begins with, the provider's default."""

SAME_PROVIDER = (("anthropic", "claude"), ("openai", "codex"), ("google", "gemini"))
"""Names of one provider. A pricing under either serves runs stored under the other."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in USD per token."""

    input: float
    output: float
    cache_read: float
    cache_creation: float

    def of(self, *, input: int, output: int, cache_read: int, cache_creation: int) -> float:
        """What so many tokens cost, in USD."""
        return (
            input * self.input
            + output * self.output
            + cache_read * self.cache_read
            + cache_creation * self.cache_creation
        )


class Match(NamedTuple):
    """A price, and what of a run's model led to it."""

    by: PricedBy
    price: Price


class _Provider(NamedTuple):
    default: Price | None
    models: Mapping[str, Price]


class Prices:
    """A pricing that has been checked."""

    def __init__(self, providers: Mapping[str, _Provider]) -> None:
        self._providers = providers

    def find(self, provider: str | None, model: str | None) -> Match | None:
        """The price of a provider's model, or None where nothing prices it."""
        prices = self._of(provider)
        if prices is None:
            return None
        # Some tools call a model `provider/model`, whose own name is what follows.
        names = () if model is None else (model, model.removeprefix(f"{provider}/"))
        if exact := _first(prices.models.get, names):
            return Match("exact", exact)
        if prefix := _first(lambda name: _longest_prefix(prices.models, name), names):
            return Match("prefix", prefix)
        return None if prices.default is None else Match("default", prices.default)

    def _of(self, provider: str | None) -> _Provider | None:
        if provider is None:
            return None
        others = next((names for names in SAME_PROVIDER if provider in names), ())
        return _first(self._providers.get, (provider, *others))


def prices(pricing: Pricing | None = None) -> Prices:
    """The prices to use: the given ones, else those of the file ASM_PRICING names, else the list's."""
    if pricing is not None:
        return _checked(pricing, "pricing")
    if file := os.environ.get(ENVIRONMENT_VARIABLE):
        return _read(Path(file))
    return _listed()


def _first(find: Callable[[str], T | None], names: Iterable[str]) -> T | None:
    return next((found for name in names if (found := find(name)) is not None), None)


def _longest_prefix(models: Mapping[str, Price], model: str) -> Price | None:
    name = max((name for name in models if model.startswith(name)), key=len, default=None)
    return None if name is None else models[name]


# Reading a file.


def _read(file: Path) -> Prices:
    parse = _PARSERS.get(file.suffix.lower())
    if parse is None:
        raise ValidationError(
            f"{ENVIRONMENT_VARIABLE} names {file}, but a file of prices ends in {' or '.join(_PARSERS)}",
            path=str(file),
        )
    try:
        return _checked(parse(file.read_text("utf-8")), "")
    except OSError as error:
        raise ValidationError(
            f"{ENVIRONMENT_VARIABLE} names {file}: {error.strerror}", path=str(file)
        ) from error
    except (ValueError, RecursionError) as error:
        # Neither JSON nor TOML, no UTF-8, or prices that cannot be: each says where.
        raise ValidationError(f"{file}: {error}", path=str(file)) from error


_PARSERS: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads}


# Checking.


def _checked(pricing: Any, path: str) -> Prices:
    return Prices(
        {name: _provider(value, _at(path, name)) for name, value in _mapping(pricing, path).items()}
    )


def _provider(value: Any, path: str) -> _Provider:
    known = _mapping(value, path, ("default", "models"))
    models = _mapping(known.get("models", {}), _at(path, "models"))
    return _Provider(
        default=_price(known["default"], _at(path, "default")) if "default" in known else None,
        models={name: _price(each, _at(path, f"models.{name}")) for name, each in models.items()},
    )


def _price(value: Any, path: str) -> Price:
    known = _mapping(value, path, ("input", "output", "cache_read", "cache_creation"))
    if missing := [name for name in ("input", "output") if name not in known]:
        raise ValidationError(f"{path} must say what {missing[0]} costs, in USD per token", path=path)
    usd = {name: _usd(each, _at(path, name)) for name, each in known.items()}
    return Price(
        input=usd["input"],
        output=usd["output"],
        cache_read=usd.get("cache_read", usd["input"]),
        cache_creation=usd.get("cache_creation", usd["input"]),
    )


def _usd(value: Any, path: str) -> float:
    if not is_number(value):
        raise ValidationError(f"{path} must be a number, not {type(value).__name__}", path=path)
    usd = number(value)
    if not 0 <= usd <= USD_MAX:
        raise ValidationError(f"{path} must be from 0 to {USD_MAX:,} USD per token", path=path)
    return float(usd)


USD_MAX = 1_000_000
"""No token costs that much, and as many as a database can count still have a cost that is finite."""


def _mapping(value: Any, path: str, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    name = path or "the file"
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name} must be a mapping, not {type(value).__name__}", path=path)
    for key in value:
        if not isinstance(key, str) or not key:
            raise ValidationError(f"{name} has the key {safe_repr(key)}, which is no name", path=path)
        if known is not None and key not in known:
            raise ValidationError(
                f"{name} has the key {safe_repr(key)}; it may have {', '.join(known)}", path=_at(path, key)
            )
    return value


def _at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# The list.


@cache
def _listed() -> Prices:
    return _checked(LIST_PRICES, "LIST_PRICES")


def _per_million(input: str, output: str, cache_read: str = "", cache_creation: str = "") -> dict[str, float]:
    """A price as the lists print it, in USD per million tokens, to the float nearest to it."""
    printed = {"input": input, "output": output, "cache_read": cache_read, "cache_creation": cache_creation}
    return {name: float(f"{dollars}e-6") for name, dollars in printed.items() if dollars}


LISTED_ON = "2026-11-04"
"""The day to which LIST_PRICES had been kept up."""

# Input, output, read from a cache, written to one (Anthropic: for five minutes).
LIST_PRICES: dict[str, dict[str, Any]] = {
    "anthropic": {
        "models": {
            "claude-2": _per_million("8", "24"),
            "claude-3-haiku": _per_million("0.25", "1.25", "0.03", "0.3"),
            "claude-3-sonnet": _per_million("3", "15", "0.3", "3.75"),
            "claude-3-opus": _per_million("15", "75", "1.5", "18.75"),
            "claude-3-5-haiku": _per_million("0.8", "4", "0.08", "1"),
            "claude-3-5-sonnet": _per_million("3", "15", "0.3", "3.75"),
            "claude-3-7-sonnet": _per_million("3", "15", "0.3", "3.75"),
            "claude-sonnet-4": _per_million("3", "15", "0.3", "3.75"),
            "claude-opus-4": _per_million("15", "75", "1.5", "18.75"),
            "claude-opus-4-1": _per_million("15", "75", "1.5", "18.75"),
            "claude-haiku-4-5": _per_million("1", "5", "0.1", "1.25"),
            "claude-sonnet-4-5": _per_million("3", "15", "0.3", "3.75"),
            "claude-sonnet-4-6": _per_million("3", "15", "0.3", "3.75"),
            "claude-opus-4-5": _per_million("5", "25", "0.5", "6.25"),
            "claude-opus-4-6": _per_million("5", "25", "0.5", "6.25"),
            "claude-opus-4-7": _per_million("5", "25", "0.5", "6.25"),
            "claude-opus-4-8": _per_million("5", "25", "0.5", "6.25"),
            "claude-sonnet-5": _per_million("2", "10", "0.2", "2.5"),
            "claude-opus-5": _per_million("5", "25", "0.5", "6.25"),
            "claude-fable-5": _per_million("10", "50", "1", "12.5"),
            "claude-mythos-5": _per_million("10", "50", "1", "12.5"),
            "claude-fable-5-1": _per_million("10", "50", "0.25", "12.5"),
            "claude-mythos-5-1": _per_million("10", "50", "0.25", "12.5"),
            "claude-fable-5-2": _per_million("8", "40", "0.2", "10"),
            "claude-mythos-5-2": _per_million("8", "40", "0.2", "10"),
            "claude-haiku-5-5": _per_million("0.1", "0.5", "0.01", "0.125"),
            "claude-sonnet-5-5": _per_million("2", "10", "0.1", "2.5"),
            "claude-opus-5-5": _per_million("4", "20", "0.2", "5"),
        }
    },
    "openai": {
        "models": {
            "gpt-3.5-turbo": _per_million("0.5", "1.5"),
            "gpt-3.5-turbo-0613": _per_million("1.5", "2"),
            "gpt-3.5-turbo-1106": _per_million("1", "2"),
            "gpt-3.5-turbo-16k": _per_million("3", "4"),
            "gpt-3.5-turbo-instruct": _per_million("1.5", "2"),
            "gpt-4": _per_million("30", "60"),
            "gpt-4-32k": _per_million("60", "120"),
            "gpt-4-0125-preview": _per_million("10", "30"),
            "gpt-4-1106-preview": _per_million("10", "30"),
            "gpt-4-turbo": _per_million("10", "30"),
            "gpt-4-vision-preview": _per_million("10", "30"),
            "gpt-4.1": _per_million("2", "8", "0.5"),
            "gpt-4.1-mini": _per_million("0.4", "1.6", "0.1"),
            "gpt-4.1-nano": _per_million("0.1", "0.4", "0.025"),
            "gpt-4.5-preview": _per_million("75", "150", "37.5"),
            "gpt-4o": _per_million("2.5", "10", "1.25"),
            "gpt-4o-2024-05-13": _per_million("5", "15"),
            "gpt-4o-mini": _per_million("0.15", "0.6", "0.075"),
            "chatgpt-4o-latest": _per_million("5", "15"),
            "codex-mini": _per_million("1.5", "6", "0.375"),
            "gpt-5": _per_million("1.25", "10", "0.125"),
            "gpt-5-mini": _per_million("0.25", "2", "0.025"),
            "gpt-5-nano": _per_million("0.05", "0.4", "0.005"),
            "gpt-5-pro": _per_million("15", "120"),
            "gpt-5.1": _per_million("1.25", "10", "0.125"),
            "gpt-5.1-codex-mini": _per_million("0.25", "2", "0.025"),
            "gpt-5.2": _per_million("1.75", "14", "0.175"),
            "gpt-5.2-pro": _per_million("21", "168"),
            "gpt-5.3": _per_million("1.75", "14", "0.175"),
            "gpt-5.4": _per_million("2.5", "15", "0.25"),
            "gpt-5.4-mini": _per_million("0.75", "4.5", "0.075"),
            "gpt-5.4-nano": _per_million("0.2", "1.25", "0.02"),
            "gpt-5.4-pro": _per_million("30", "180"),
            "gpt-5.5": _per_million("5", "30", "0.5"),
            "gpt-5.5-pro": _per_million("30", "180"),
            "gpt-5.5-cyber": _per_million("12.5", "75", "1.25"),
            "gpt-5.6-cyber": _per_million("12.5", "75", "1.25", "15.625"),
            "gpt-5.6-luna": _per_million("0.2", "1.2", "0.02", "0.25"),
            "gpt-5.6-sol": _per_million("4", "20", "0.4", "5"),
            "gpt-5.6-terra": _per_million("2", "12", "0.2", "2.5"),
            "gpt-6-astra": _per_million("10", "50", "1", "12.5"),
            "gpt-6-cyber": _per_million("20", "100", "2", "25"),
            "gpt-6-luna": _per_million("0.1", "0.5", "0.01", "0.125"),
            "gpt-6-sol": _per_million("2", "10", "0.2", "2.5"),
            "gpt-6.1-sol": _per_million("2", "10", "0.1", "2.5"),
            "gpt-6.1-terra": _per_million("1", "5", "0.05", "1.25"),
            "o1": _per_million("15", "60", "7.5"),
            "o1-mini": _per_million("1.1", "4.4", "0.55"),
            "o1-pro": _per_million("150", "600"),
            "o3": _per_million("2", "8", "0.5"),
            "o3-deep-research": _per_million("10", "40", "2.5"),
            "o3-mini": _per_million("1.1", "4.4", "0.55"),
            "o3-pro": _per_million("20", "80"),
            "o4-mini": _per_million("1.1", "4.4", "0.275"),
            "o4-mini-deep-research": _per_million("2", "8", "0.5"),
        }
    },
    "google": {
        "models": {
            "gemini-1.5-flash": _per_million("0.075", "0.3", "0.01875"),
            "gemini-1.5-flash-8b": _per_million("0.0375", "0.15", "0.01"),
            "gemini-1.5-pro": _per_million("1.25", "5", "0.3125"),
            "gemini-2.0-flash": _per_million("0.1", "0.4", "0.025"),
            "gemini-2.0-flash-lite": _per_million("0.075", "0.3"),
            "gemini-2.5-flash": _per_million("0.3", "2.5", "0.03"),
            "gemini-2.5-flash-lite": _per_million("0.1", "0.4", "0.01"),
            "gemini-2.5-pro": _per_million("1.25", "10", "0.125"),
            "gemini-3-flash": _per_million("0.5", "3", "0.05"),
            "gemini-3-pro": _per_million("2", "12", "0.2"),
            "gemini-3.1-flash-lite": _per_million("0.25", "1.5", "0.025"),
            "gemini-3.1-pro": _per_million("2", "12", "0.2"),
            "gemini-3.5-flash": _per_million("1.5", "9", "0.15"),
            "gemini-3.5-flash-lite": _per_million("0.3", "2.5", "0.03"),
            "gemini-3.6-flash": _per_million("0.75", "3.75", "0.075"),
            "gemini-3.7-flash": _per_million("0.75", "3.75", "0.075"),
            "gemini-3.8-flash": _per_million("0.75", "3.75", "0.075"),
            "gemini-4-argon": _per_million("2", "10", "0.1"),
        }
    },
}
"""What the providers' public lists asked for tokens of text, as the genai-prices project had collected
them by LISTED_ON. Lists change, some of these prices were introductory, and a run of another day is
priced like one of that day: for a bill, give prices of your own.

They are those of ordinary calls with short prompts. Stored sums do not tell a long prompt, a batch,
a region, an image or a discount, which cost more or less. There are no defaults, because no list has
any: a model that is not here, and begins with no name that is, has no price.
"""
