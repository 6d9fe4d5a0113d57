"""A program that speaks to the Agent SDK as Claude Code does. Its lines and its end come from a file.

It answers the control requests that it does not ignore, says its lines when it is asked, and then waits for
the end of its input, or exits with a code of its own. All that it gets is written to a log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    scenario = json.loads(Path(os.environ["SCENARIO"]).read_text("utf-8"))
    log({"type": "arguments", "arguments": sys.argv[1:]})
    for line in sys.stdin:
        message = json.loads(line)
        log(message)
        if message["type"] == "control_request" and message["request"]["subtype"] not in scenario["ignores"]:
            answer = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            say({"type": "control_response", "response": answer})
        elif message["type"] == "user":
            for each in scenario["lines"]:
                say(each)
            if (code := scenario["exit_code"]) is not None:
                sys.exit(code) if code >= 0 else os.kill(os.getpid(), -code)
    log({"type": "end_of_input"})


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def log(message: dict[str, Any]) -> None:
    with Path(os.environ["LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**message, "pid": os.getpid()}) + "\n")


if __name__ == "__main__":
    main()
