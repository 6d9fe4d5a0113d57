"""Run an agent, store the run, and print it: python examples/demo.py [DSN]

A user asks about the weather, and the agent calls two tools before it answers. The adapter plays the model,
so that no key is needed: `asm.agents.anthropic.Claude(model=…)` is one that asks a real one. Every event is
durable before it is printed. The pieces of a message are printed as they arrive; they have no number, and
are not stored.
"""

import shlex
import sys
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import asm
from asm.agents.demo import TOOLS, Demo, on_tool


def main(dsn: str) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        manager = asm.SessionManager(store)
        session = manager.start_session("weather-agent", tags=("demo",))
        question = "Will it rain in Bergen today?"
        events = manager.stream(session.id, Demo(), question, tools=TOOLS, on_tool=on_tool)
        for is_stored, group in groupby(events, lambda event: event.sequence_number is not None):
            if is_stored:
                for event in group:
                    print(f"{event.sequence_number:>5}  {event.type:<20} {event.data or ''}")
            else:
                print(f"{'':7}", end="")
                for event in group:
                    print(event.data["delta"], end="", flush=True)
                print()
        manager.complete(session.id)
        (run,) = store.list_runs(session.id)
        print(f"\nRun {run.id} is {run.status} in {store}, with {run.turn_count} turns.")
    show, serve = ("show", session.id, "--dsn", dsn), ("serve", dsn)
    print(f"\nThis shows it on a page:\n\n    {command_line('cli,web', 'starlette', *serve)}")
    print(f"\nThis prints it again, as a conversation:\n\n    {command_line('cli', 'rich', *show)}")


def command_line(extra: str, module: str, *arguments: str) -> str:
    """The `asm` command with some arguments, for the Python that runs this."""
    asm_command = Path(sys.executable).with_name("asm")
    if find_spec("click") is None or find_spec(module) is None:
        return f"pip install 'asm-store[{extra}]' && asm {shlex.join(arguments)}"
    if not asm_command.exists():
        return shlex.join([sys.executable, "-m", "asm", *arguments])
    if asm_command.is_relative_to(Path.cwd()):
        asm_command = asm_command.relative_to(Path.cwd())
    return shlex.join([str(asm_command), *arguments])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db")
