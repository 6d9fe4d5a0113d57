"""An agent of Strands that goes on where it stopped: python examples/with_strands.py [DSN]

`pip install 'asm-store[strands]'`. A model that knows one answer stands in for a real one.
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

from strands import Agent
from strands.models import Model
from strands.session.repository_session_manager import RepositorySessionManager

import asm
from asm.integrations.strands import AsmSessionRepository


class Parrot(Model):
    """A model that repeats how many messages it was sent."""

    def update_config(self, **config: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": f"That was message {len(messages)}."}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def main(dsn: str) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        repository = AsmSessionRepository(store)
        for question in ("Hello?", "And now?"):
            # Each time a new agent, as after a restart.
            manager = RepositorySessionManager("talk", session_repository=repository)
            agent = Agent(model=Parrot(), agent_id="parrot", session_manager=manager, callback_handler=None)
            print(question, agent(question), end="")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///asm-demo.db"])
