"""An API that speaks as Anthropic's or OpenAI's, and an adapter that calls it with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from asm.agents.protocol import Adapter
from tests.agents.adapters.apis import AnthropicApi, Api, OpenAIApi
from tests.agents.adapters.loopback import Provider, provider

SDKS = {
    "anthropic": ("AsyncAnthropic", "Anthropic", "Claude"),
    "openai": ("AsyncOpenAI", "OpenAI", "Responses"),
}


@dataclass(frozen=True)
class Spoken:
    """An API and the server that speaks it."""

    api: Any
    server: Provider

    def adapter(self, client: Any = None, **options: Any) -> Adapter:
        made: Adapter = getattr(self.module, SDKS[self.api.name][2])(client, model=self.api.model, **options)
        return made

    @property
    def module(self) -> Any:
        return import_module(f"asm.agents.{self.api.name}")

    def client(self) -> Any:
        return getattr(import_module(self.api.name), SDKS[self.api.name][0])()

    def blocking_client(self) -> Any:
        return getattr(import_module(self.api.name), SDKS[self.api.name][1])()


def spoken(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    pytest.importorskip(api.name)
    with provider() as server:
        for name in (api.key, "NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv(api.base_url, server.url)
        yield Spoken(api, server)


@pytest.fixture(params=[AnthropicApi(), OpenAIApi()], ids=lambda api: api.name)
def any_api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    yield from spoken(request.param, monkeypatch)


@pytest.fixture
def anthropic_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    yield from spoken(AnthropicApi(), monkeypatch)


@pytest.fixture
def openai_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spoken]:
    yield from spoken(OpenAIApi(), monkeypatch)
