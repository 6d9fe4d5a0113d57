"""The tables as Markdown, from `sql/<dialect>/schema.sql`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

from asm.engine.registry import Dialect, sql_folder

INTERNAL = "internal"

PURPOSES = {
    "asm_sessions": "One row per session.",
    "asm_runs": "One row per run.",
    "asm_events": "One row per event. Rows are inserted and deleted, never updated.",
    "asm_session_sequences": "One row per session that has had an event: the counter of its events.",
    "asm_artifacts": "One row per artifact. The objects are stored elsewhere.",
    "asm_session_tags": "Only in SQLite, and internal: one row per tag of a session, for searches by tag.",
}

# A column that applications may read has a meaning here. Internal columns may change at any time.
_ID = "the id, such as `ses_…`"
_DOCUMENT = "a JSON object of the application"
_SESSION = "the session"
_PROVIDER = "whose model it was, such as `anthropic`"
MEANINGS = {
    "asm_sessions": {
        "id": _ID,
        "agent_id": "the agent",
        "status": "pending, active, paused, completed, failed or cancelled",
        "parent_session_id": "the session from which this one was forked or started",
        "metadata": _DOCUMENT,
        "context": "a JSON object that the agent needs to continue",
        "tags": "the tags, without duplicates",
        "created_at": "when it was created",
        "updated_at": "when it was last changed",
        "deleted_at": "when it was soft-deleted",
    },
    "asm_runs": {
        "id": "the id; unique in its session",
        "session_id": _SESSION,
        "status": "pending, running, completed, failed, cancelled or timeout",
        "input": "any JSON value",
        "output": "any JSON value",
        "error": "any JSON value",
        "metadata": _DOCUMENT,
        "turn_count": "how many turns the run has had",
        "token_usage": "the tokens as they were given, with keys of the application",
        "started_at": "when it started",
        "ended_at": "when it ended",
        "provider": _PROVIDER,
        "provider_metadata": "a JSON object; its key `model` is the model",
        "cost_usd": "the cost that the application gave",
        "input_tokens": "of `token_usage`",
        "output_tokens": "of `token_usage`",
        "total_tokens": "of `token_usage`; input and output tokens where it has none",
        "cache_read_tokens": "of `token_usage`",
        "cache_creation_tokens": "of `token_usage`",
        "model": "of `provider_metadata`",
        "final_cost_usd": INTERNAL,
        "final_input_tokens": INTERNAL,
        "final_output_tokens": INTERNAL,
        "final_total_tokens": INTERNAL,
        "final_cache_read_tokens": INTERNAL,
        "final_cache_creation_tokens": INTERNAL,
    },
    "asm_events": {
        "id": "the id; unique in its session",
        "type": "such as `message_sent`",
        "timestamp": "when it happened, by the clock of its producer",
        "session_id": _SESSION,
        "run_id": "the run",
        "sequence_number": "1, 2, 3, … in the session",
        "data": "what happened, a JSON object",
        "metadata": _DOCUMENT,
        "schema_version": "the version of `data`, for the application",
        "provider": _PROVIDER,
        "correlation_id": "joins events that belong together",
    },
    "asm_session_sequences": {
        "session_id": _SESSION,
        "last_sequence": "the number of its latest event",
        "pruned_events": "how many of its events were removed",
        "updated_at": "when its latest event was stored, by the clock of the server",
    },
    "asm_artifacts": {
        "id": _ID,
        "session_id": _SESSION,
        "run_id": "the run",
        "key": "the key; unique among artifacts that are not deleted",
        "content_type": "the MIME type",
        "byte_size": "the size in bytes",
        "checksum_sha256": "the checksum",
        "storage_backend": "where the object is, such as `s3`",
        "storage_ref": "its address there",
        "metadata": _DOCUMENT,
        "created_at": "when it was registered",
        "deleted_at": "when it was soft-deleted",
    },
    "asm_session_tags": dict.fromkeys(["tag", "id", "created_at", "updated_at"], INTERNAL),
}


@dataclass
class Table:
    """The columns of a table with their types, and the columns of its keys and indexes."""

    columns: dict[str, str] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    indexes: list[str] = field(default_factory=list)


def tables() -> str:
    return "\n\n".join(chain.from_iterable(map(_table, PURPOSES)))


def undescribed() -> set[str]:
    """Tables and columns of the schemas that have no meaning here, and the other way round."""
    in_schemas = {
        f"{name}.{column}"
        for dialect in ("postgres", "sqlite")
        for name, table in schema(dialect).items()
        for column in table.columns
    }
    here = {f"{name}.{column}" for name, columns in MEANINGS.items() for column in columns}
    return in_schemas ^ here


def _table(name: str) -> Iterator[str]:
    postgres, sqlite = schema("postgres").get(name, Table()), schema("sqlite").get(name, Table())
    yield f"### {name}"
    yield PURPOSES[name]
    if all(meaning == INTERNAL for meaning in MEANINGS[name].values()):
        return
    rows = ["| column | PostgreSQL | SQLite | null | meaning |", "|---|---|---|---|---|"]
    for column, meaning in MEANINGS[name].items():
        if meaning == INTERNAL:
            continue
        types = [table.columns.get(column, "") for table in (postgres, sqlite)]
        null = "yes" if column in postgres.optional | sqlite.optional else ""
        rows.append(f"| `{column}` | {types[0]} | {types[1]} | {null} | {meaning} |")
    yield "\n".join(rows)
    if internal := [f"`{column}`" for column, meaning in MEANINGS[name].items() if meaning == INTERNAL]:
        yield f"Internal: {', '.join(internal)}."
    yield "\n".join(
        f"- Keys and indexes in {title}: {', '.join(f'`{each}`' for each in table.indexes)}"
        for title, table in (("PostgreSQL", postgres), ("SQLite", sqlite))
        if table.indexes
    )


@cache
def schema(dialect: Dialect) -> dict[str, Table]:
    """The tables of a dialect, read from its schema.sql."""
    text = sql_folder(dialect).joinpath("schema.sql").read_text("utf-8")
    statements = re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).split(";\n")
    found: dict[str, Table] = {}
    for statement in statements:
        words = " ".join(statement.replace('"', "").split())
        if made := re.match(r"create table (\w+) \(", words):
            found[made[1]] = _read_table(_in_parentheses(words, made.end()))
        elif index := re.match(r"create (?:unique )?index \w+ on (\w+) (?:using \w+ )?\(", words):
            columns = _in_parentheses(words, index.end())
            condition = re.search(r" where (.*)", words)
            found[index[1]].indexes.append(
                f"({columns}) where {condition[1]}" if condition else f"({columns})"
            )
    return found


def _read_table(body: str) -> Table:
    table = Table()
    for part in _split(body):
        if key := re.search(r"(?:primary key|unique) \(", part):
            table.indexes.append(f"({_in_parentheses(part, key.end())})")
        elif not part.startswith("constraint "):
            name, type = part.split(" ", 1)
            table.columns[name] = re.split(
                r" (?:collate|not null|primary key|default|generated)\b", type, maxsplit=1
            )[0]
            if "not null" not in part:
                table.optional.add(name)
            if "primary key" in part:
                table.indexes.append(f"({name})")
    return table


def _in_parentheses(text: str, start: int) -> str:
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[start : end - 1]


def _split(body: str) -> Iterator[str]:
    """The parts of a table's body: split at the commas that are not in parentheses."""
    depth, part = 0, ""
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()
