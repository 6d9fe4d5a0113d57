"""Write the blocking half of modules whose awaited half is written by hand: `make sync`.

The words of the awaited half are replaced by those of the blocking one, and ruff sorts the imports and
lays out the rest. Lines that end in `# async only`, and those from `# begin: async only` to
`# end: async only`, are left out; a line `# sync only: …` becomes the code after the colon.

`--check` changes nothing, and fails if a file is not what would be written.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

MODULES = {
    "asm/async_store.py": "asm/store.py",
    "asm/postgres/async_at_most_once.py": "asm/postgres/at_most_once.py",
    "asm/postgres/async_checkouts.py": "asm/postgres/checkouts.py",
    "asm/postgres/async_connections.py": "asm/postgres/connections.py",
    "asm/postgres/async_deadlines.py": "asm/postgres/deadlines.py",
    "asm/postgres/async_database.py": "asm/postgres/database.py",
    "asm/postgres/async_pools.py": "asm/postgres/pools.py",
    "asm/postgres/async_session_reset.py": "asm/postgres/session_reset.py",
    "asm/postgres/async_server_checks.py": "asm/postgres/server_checks.py",
    "asm/postgres/async_transaction.py": "asm/postgres/transaction.py",
    "asm/telemetry/async_databases.py": "asm/telemetry/databases.py",
}

_BLOCKING = "|".join(Path(target).stem for target in MODULES.values())

HEADER = "# Generated from {source} by `make sync`. Change that file instead.\n\n"

REPLACEMENTS = [
    (r"[ ]*# begin: async only\n(?:.*\n)*?[ ]*# end: async only\n", ""),
    (r".*# async only\n", ""),
    (r"# sync only: ", ""),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basyncio\.to_thread\((\w+), ", r"\1("),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\b(_?\w+)_async\b", r"\1"),
    (rf"\basync_(\w*method|group_commit|polling|{_BLOCKING})\b", r"\1"),
    (r"\b(_?)Async(?=[A-Z])", r"\1"),
    (r"\bCancellablePool\b", "ConnectionPool"),
    (r"\b(?:Shielded|run_to_completion)\((.*)\)", r"\1"),
    (r"\btasks of one event loop\b", "threads"),
]


def blocking(source: str, text: str) -> str:
    """The blocking half of a module."""
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    text = HEADER.format(source=source) + text
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401,UP"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "asm/blocking.py", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def main(*arguments: str) -> int:
    outdated = []
    for source, target in MODULES.items():
        text = blocking(source, (ROOT / source).read_text("utf-8"))
        if not (ROOT / target).exists() or text != (ROOT / target).read_text("utf-8"):
            outdated.append(target)
            if "--check" not in arguments:
                (ROOT / target).write_text(text, "utf-8")
    if outdated and "--check" in arguments:
        print(f"not what `make sync` writes: {', '.join(outdated)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
