"""What reading a Claude Code log costs grows with its size, whatever it contains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from tests.formats.claude_logs import SESSION, Record, Writer, read, write
from tests.property.test_growth import SIZES, faults, traced_memory

__all__ = ["traced_memory"]


def side(prompt: str) -> Record:
    return Writer(isSidechain=True).user(prompt)


def agents(n: int) -> Iterable[Record]:
    """As many calls as sub-agents, of which none is of any other."""
    writer = Writer()
    calls = [writer.calls(f"toolu_{number}", name="Task", prompt=f"Find {number}.") for number in range(n)]
    return chain(calls, [side("Find it.") for _ in range(n)])


def one_message(n: int) -> Iterable[Record]:
    writer = Writer()
    return [writer.calls(f"toolu_{number}", "msg_1", output=number) for number in range(n)]


LOGS: dict[str, Callable[[int], Iterable[Record]]] = {
    "many records of a message": one_message,
    "many agents that nobody calls": agents,
    "many markers": lambda n: [{"type": "mode", "mode": "plan", "sessionId": SESSION}] * n,
    "many titles": lambda n: [
        {"type": "summary", "summary": "Title", "leafUuid": f"{number}"} for number in range(n)
    ],
    "a long prompt of tags": lambda n: [Writer().user("<command-name>" * 20 * n)],
    "a prompt of many blocks": lambda n: [Writer().user([{"type": "text", "text": "x"}] * n)],
    "a long error": lambda n: [
        Writer().result("toolu_1", [{"type": "text", "text": "x"}] * n, is_error=True)
    ],
}


@pytest.mark.parametrize("what", LOGS)
def test_the_cost_of_reading_a_claude_code_log_grows_with_its_size(tmp_path: Path, what: str) -> None:
    files = [write(tmp_path / str(n) / f"{SESSION}.jsonl", LOGS[what](n // 3)) for n in SIZES]
    assert faults(what, [partial(read, file) for file in files]) == []


def test_the_cost_of_records_without_line_breaks_grows_with_their_size(tmp_path: Path) -> None:
    files = []
    for n in SIZES:
        file = tmp_path / str(n) / f"{SESSION}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"sessionId": "x", "n": 1}' * n)
        files.append(file)
    assert faults("one line", [partial(read, file) for file in files]) == []
