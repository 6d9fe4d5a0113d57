"""Record a session of an agent and print it: python examples/demo.py [DSN]

A user asks about the weather, and the agent calls a tool before it answers. Each event is appended
when it happens. When the call returns, the event is durable and has its sequence number.
"""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import asm


def main(dsn: str) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        session = asm.Session(agent_id="weather-agent", status="active", tags=("demo",))
        run = asm.Run(
            session_id=session.id,
            status="running",
            input="Will it rain in Bergen today?",
            provider="openai",
            provider_metadata={"model": "gpt-4o"},
        )
        store.flush(session, run)

        def append(type: str, **data: object) -> asm.Event:
            return store.append_event(asm.Event(type=type, session_id=session.id, run_id=run.id, data=data))

        append("message_sent", role="user", content=run.input)
        append("tool_call_started", name="forecast", input={"city": "Bergen", "days": 1})
        append("tool_call_completed", output="rain from 14:00, 7 °C")
        answer = append("message_received", role="assistant", content="Yes, from two o'clock on.")

        run = run.increment_turn().update_token_usage({"input_tokens": 412, "output_tokens": 31})
        run = run.set_output(answer.data["content"])
        end = asm.Event(type="run_completed", session_id=session.id, run_id=run.id)
        store.flush(session.update_status("completed"), run, [end])

        print(f"Session {session.id} is stored in {store}:\n")
        for event in store.iter_events(session.id):
            print(f"{event.sequence_number:>5}  {event.type:<20} {event.data or ''}")

    print(f"\nThis prints it again, as a conversation:\n\n    {show_command(session.id, dsn)}")


def show_command(session_id: str, dsn: str) -> str:
    """The command line that shows the session, for the Python that runs this."""
    asm_command = Path(sys.executable).with_name("asm")
    if find_spec("click") is None or find_spec("rich") is None:
        return f"pip install 'asm-store[cli]' && asm show {session_id} --dsn {shlex.quote(dsn)}"
    if not asm_command.exists():
        return shlex.join([sys.executable, "-m", "asm", "show", session_id, "--dsn", dsn])
    if asm_command.is_relative_to(Path.cwd()):
        asm_command = asm_command.relative_to(Path.cwd())
    return shlex.join([str(asm_command), "show", session_id, "--dsn", dsn])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db")
