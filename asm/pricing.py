"""What tokens cost, in USD per token.

A pricing is a mapping of providers, as JSON and TOML can represent it:

    {"claude": {"default": {"input": 3e-6, "output": 15e-6},
                "models": {"claude-opus-5": {"input": 5e-6, "output": 25e-6,
                                             "cache_read": 5e-7, "cache_creation": 6.25e-6}}}}

A model has the price under its exact name, else that of the longest name it begins with, else the
provider's default, else none. A model stored as `provider/model` is also looked up without the
provider. Tokens read from a cache or written to one are counted separately from the input tokens,
not among them. Where a price does not name them, they cost as much as input tokens.

The provider of a run decides which prices apply:

- Those under its own name, or under another name of the same provider (SAME_PROVIDER).
- If these have no price of the model, and the provider is a cloud that sells the models of others (its name
  contains "azure", "bedrock" or "vertex"): those of the model's maker, except the maker's default. The
  clouds' own names of models are read, such as `us.anthropic.claude-sonnet-4-20250514-v1:0`, and Match.by
  is "maker". Clouds charge the makers' list prices for most models, and more for some regions, so that such
  a cost is an estimate.
- None for any other provider and for a run without one, because several providers may sell one model.

The caller's pricing takes precedence over the file that ASM_PRICING names (.json or .toml), and that
file over LIST_PRICES. They are not merged: `{**LIST_PRICES, "acme": …}` adds to the list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from asm.errors import ValidationError
from asm.validation import TEXT_LENGTH_MAX, did_you_mean, is_number, is_text, safe_repr

T = TypeVar("T")

PRICING_VARIABLE = "ASM_PRICING"

Pricing: TypeAlias = Mapping[str, Mapping[str, Any]]
PricedBy: TypeAlias = Literal["cost_usd", "exact", "prefix", "default", "maker"]
"""The run's own cost, the exact name of its model, a prefix of that name, the provider's default, the
prices of the model's maker for a run on a cloud."""

SAME_PROVIDER = (("anthropic", "claude", "claude-code"), ("openai", "codex"), ("google", "gemini"))
"""Names for one provider. A pricing under one name applies to runs stored under another."""

MAKERS = {
    "azure": ("openai", "anthropic"),
    "bedrock": ("anthropic", "openai"),
    "vertex": ("google", "anthropic"),
}
"""The makers of the models that a cloud sells. A provider whose name contains a key is that cloud."""

USD_MAX = 1_000_000
"""The largest price of a token, which keeps the costs of all tokens that a database can count finite."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model's tokens, in USD per token."""

    input: float
    output: float
    cache_read: float
    cache_creation: float

    def of(self, *, input: int, output: int, cache_read: int, cache_creation: int) -> float:
        """The cost of these numbers of tokens, in USD."""
        return (
            input * self.input
            + output * self.output
            + cache_read * self.cache_read
            + cache_creation * self.cache_creation
        )


class Match(NamedTuple):
    """A price, and how it was found."""

    by: PricedBy
    price: Price


class _Provider(NamedTuple):
    default: Price | None
    models: Mapping[str, Price]


class Prices:
    """The prices of a pricing whose values have been checked."""

    def __init__(self, providers: Mapping[str, _Provider]) -> None:
        self._providers = providers

    def find(self, provider: str | None, model: str | None) -> Match | None:
        """The price of a provider's model, or None if it has none."""
        if provider is None:
            return None
        known = self._find_provider(provider)
        return (known and _match(known, provider, model)) or self._find_maker(provider, model)

    def cost(self, provider: str | None, model: str | None, tokens: Mapping[str, int | None]) -> float | None:
        """The cost in USD of one run or model call with these token counts.

        None if the model has no price, or if none of the tokens is of a kind that has one: `total_tokens`
        alone cost something, and nobody knows how much.
        """
        kinds = ("input", "output", "cache_read", "cache_creation")
        numbers = {kind: tokens.get(f"{kind}_tokens") or 0 for kind in kinds}
        match = self.find(provider, model)
        if match is None or (tokens.get("total_tokens") and not any(numbers.values())):
            return None
        return match.price.of(**numbers)

    def _find_provider(self, provider: str) -> _Provider | None:
        names = next((names for names in SAME_PROVIDER if provider in names), ())
        return _first(self._providers.get, (provider, *names))

    def _find_maker(self, provider: str, model: str | None) -> Match | None:
        """The price that the maker of a cloud's model lists."""
        if model is None:
            return None
        cloud = next((cloud for cloud in MAKERS if cloud in provider.lower()), "")
        for maker in MAKERS.get(cloud, ()):
            known = self._find_provider(maker)
            match = known and _match(known._replace(default=None), maker, _makers_name(model, maker))
            if match:
                return match._replace(by="maker")
        return None


def _match(known: _Provider, provider: str, model: str | None) -> Match | None:
    names = () if model is None else (model, model.removeprefix(f"{provider}/"))
    if exact := _first(known.models.get, names):
        return Match("exact", exact)
    if prefix := _first(lambda name: _longest_prefix(known.models, name), names):
        return Match("prefix", prefix)
    return None if known.default is None else Match("default", known.default)


def _makers_name(model: str, maker: str) -> str:
    """The maker's name of a model from the id that a cloud gives it.

    Bedrock's are `us.anthropic.claude-…-v1:0`, also at the end of an ARN; Vertex AI's are
    `publishers/anthropic/models/claude-…@20250514`. Versions at the end are no part of a prefix.
    """
    return model.rpartition("/")[2].rpartition(f"{maker}.")[2]


def prices(pricing: Pricing | None = None) -> Prices:
    """The prices of a pricing, by default of the file that ASM_PRICING names or of LIST_PRICES."""
    if pricing is not None:
        return _parse(pricing, "pricing")
    if file := os.environ.get(PRICING_VARIABLE):
        return _read_file(Path(file))
    return _list_prices()


def _first(find: Callable[[str], T | None], names: Iterable[str]) -> T | None:
    return next((found for name in names if (found := find(name)) is not None), None)


def _longest_prefix(models: Mapping[str, Price], model: str) -> Price | None:
    # One look-up for each length, however many names there are: a model's name has at most 255 characters.
    prefixes = (model[:length] for length in range(len(model), 0, -1))
    return _first(models.get, prefixes)


# Files.


def _read_file(file: Path) -> Prices:
    decode = _DECODERS.get(file.suffix.lower())
    if decode is None:
        raise ValidationError(
            f"{PRICING_VARIABLE} names {file}: use a file that ends in {' or '.join(_DECODERS)}",
            path=str(file),
        )
    try:
        return _parse(decode(file.read_text("utf-8")), "")
    except OSError as error:
        raise ValidationError(f"{PRICING_VARIABLE} names {file}: {error.strerror}", path=str(file)) from error
    except (ValueError, RecursionError) as error:
        # The text is not UTF-8, JSON or TOML, or a price is not valid. Each message names the position.
        raise ValidationError(f"{file}: {error}", path=str(file)) from error


def _loads_toml(text: str) -> Any:
    # Imported here, because its tables of characters are a twentieth of `import asm`.
    import tomllib

    return tomllib.loads(text)


_DECODERS: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": _loads_toml}


# Checks.


def _parse(pricing: Any, path: str) -> Prices:
    return Prices(
        {
            name: _parse_provider(value, _join(path, name))
            for name, value in _check_mapping(pricing, path).items()
        }
    )


def _parse_provider(value: Any, path: str) -> _Provider:
    parts = _check_mapping(value, path, ("default", "models"))
    models = _check_mapping(parts.get("models", {}), _join(path, "models"))
    return _Provider(
        default=_parse_price(parts["default"], _join(path, "default")) if "default" in parts else None,
        models={name: _parse_price(each, _join(path, f"models.{name}")) for name, each in models.items()},
    )


def _parse_price(value: Any, path: str) -> Price:
    kinds = _check_mapping(value, path, ("input", "output", "cache_read", "cache_creation"))
    for required in ("input", "output"):
        if required not in kinds:
            raise ValidationError(f"{path} has no price of {required}: give it in USD per token", path=path)
    usd = {name: _check_usd(each, _join(path, name)) for name, each in kinds.items()}
    return Price(
        input=usd["input"],
        output=usd["output"],
        cache_read=usd.get("cache_read", usd["input"]),
        cache_creation=usd.get("cache_creation", usd["input"]),
    )


def _check_usd(value: Any, path: str) -> float:
    if not is_number(value):
        raise ValidationError(f"{path} must be a number, not {type(value).__name__}", path=path)
    # NaN fails this comparison, too.
    if not 0 <= value <= USD_MAX:
        raise ValidationError(
            f"{path} must be from 0 to {USD_MAX:,} USD per token, not {safe_repr(value)}", path=path
        )
    return float(value)


def _check_mapping(value: Any, path: str, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    name = path or "the file"
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name} must be a mapping, not {type(value).__name__}", path=path)
    for key in value:
        if not is_text(key):
            raise ValidationError(
                f"{name} has the key {safe_repr(key)}: use names of 1 to {TEXT_LENGTH_MAX} characters",
                path=path,
            )
        if known is not None and key not in known:
            raise ValidationError(
                f"{name} has the unknown key {safe_repr(key)}{did_you_mean(key, known)}: "
                f"use {', '.join(known)}",
                path=_join(path, key),
            )
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# The list.


@cache
def _list_prices() -> Prices:
    return _parse(LIST_PRICES, "LIST_PRICES")


def _per_million(input: str, output: str, cache_read: str = "", cache_creation: str = "") -> dict[str, float]:
    """A price in USD per million tokens, as providers publish it. Text keeps the division by 10^6 exact."""
    usd = {"input": input, "output": output, "cache_read": cache_read, "cache_creation": cache_creation}
    return {name: float(f"{number}e-6") for name, number in usd.items() if number}


LISTED_ON = "2026-11-04"
"""The day on which LIST_PRICES was last updated."""

# Input, output, cache reads, cache writes (Anthropic: those that last five minutes).
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
"""The providers' published prices of text tokens, collected from the genai-prices project on LISTED_ON.

Prices change, and some of these were introductory. Runs of any date are priced alike, so give your own
pricing to check a bill. The prices are those of ordinary calls with short prompts: stored counts do not
tell long prompts, batches, regions, images or discounts. The list has no defaults; a model that is not
in it, and begins with no name that is, has no price.
"""
