"""An agent's session, recorded and shown: python -m asm.demo [DSN]

Somebody asks about the weather, and the agent calls a tool before it answers. Whatever happens
is appended when it happens: once the call returns it is durable and has its number.
"""

import sys

import asm
from asm.cli.display import show_session


def main(dsn: str) -> None:
    asm.migrate(dsn)
    with asm.SessionStore(dsn) as store:
        session = asm.Session(agent_id="weather-agent", status="active", tags=("demo",))
        run = asm.Run(
            session_id=session.id,
            status="running",
            input="Will it rain in Bergen today?",
            provider="openai",
            provider_metadata={"model": "gpt-4o"},
        )
        store.flush(session, run)

        def happened(type: str, **data: object) -> asm.Event:
            return store.append_event(asm.Event(type=type, session_id=session.id, run_id=run.id, data=data))

        happened("message_sent", role="user", content=run.input)
        happened("tool_call_started", name="forecast", input={"city": "Bergen", "days": 1})
        happened("tool_call_completed", output="rain from 14:00, 7 °C")
        answer = happened("message_received", role="assistant", content="Yes, from two o'clock on.")

        run = run.increment_turn().update_token_usage({"input_tokens": 412, "output_tokens": 31})
        run = run.set_output(answer.data["content"])
        end = asm.Event(type="run_completed", session_id=session.id, run_id=run.id)
        store.flush(session.update_status("completed"), run, [end])

        print(f"The answer is event {answer.sequence_number} of its session, and the run has ended.")
        print(f"It is all in {store}.")
        print(f"`asm show {session.id} --dsn …` shows it again, like this:\n")
        show_session(store, session.id)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db")
