"""The calls of a conversation that begin sub-agents whose records are in the same log.

Nothing in such a log says which call began which sub-agent, but the sub-agent begins with the call's prompt.
"""

from __future__ import annotations

from asm.documents import Document

_TOOLS = ("Task", "Agent")
CALLS_MAX = 1_000
"""The calls without a result that are remembered. An agent makes a few at a time."""


class AgentCalls:
    """Finds the session of a sub-agent by the id of its call, and the call by its prompt."""

    def __init__(self) -> None:
        self._inputs: dict[str, Document] = {}
        """The calls that have neither a sub-agent nor a result, by their ids."""
        self._ids: dict[str, dict[str, None]] = {}
        """The ids of these, by their prompts."""
        self._sessions: dict[str, str] = {}
        """The sessions of the others, by their ids."""

    def begin(self, id: str, call: Document) -> None:
        """Remember a call, if it is one of a sub-agent."""
        input = call["input"]
        prompt = input.get("prompt") if call["name"] in _TOOLS and isinstance(input, dict) else None
        if not isinstance(prompt, str) or id in self._inputs:
            return
        if len(self._inputs) == CALLS_MAX:
            self._forget(next(iter(self._inputs)))
        self._inputs[id] = input
        self._ids.setdefault(prompt, {})[id] = None

    def find(self, prompt: str, session_id: str) -> tuple[str, Document] | None:
        """The id and the input of the call that began the sub-agent with this session."""
        id = next(iter(self._ids.get(prompt, ())), None)
        if id is None:
            return None
        input = self._forget(id)
        self._sessions[id] = session_id
        return id, input

    def end(self, id: str | None) -> str | None:
        """The session of the sub-agent that a call began, whose result is there."""
        if id is None:
            return None
        if id in self._inputs:
            self._forget(id)
        return self._sessions.pop(id, None)

    def _forget(self, id: str) -> Document:
        input = self._inputs.pop(id)
        ids = self._ids[input["prompt"]]
        del ids[id]
        if not ids:
            del self._ids[input["prompt"]]
        return input
