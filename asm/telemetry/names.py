"""The names of attributes, spans and metrics.

Those of OpenTelemetry are written here as strings: its package of constants is in beta, marks those of
generative AI as deprecated, and would be a second dependency.
"""

from __future__ import annotations

SCOPE = "asm"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.33.0"
"""The first version in which the conventions for databases are stable."""

# Databases: stable.
SYSTEM = "db.system.name"
NAMESPACE = "db.namespace"
COLLECTION = "db.collection.name"
OPERATION = "db.operation.name"
BATCH_SIZE = "db.operation.batch.size"
QUERY_TEXT = "db.query.text"
STATUS_CODE = "db.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
OPERATION_DURATION = "db.client.operation.duration"

# Connections: in development.
CONNECTION_COUNT = "db.client.connection.count"
CONNECTION_MAX = "db.client.connection.max"
PENDING_REQUESTS = "db.client.connection.pending_requests"
WAIT_TIME = "db.client.connection.wait_time"
POOL_NAME = "db.client.connection.pool.name"
CONNECTION_STATE = "db.client.connection.state"

# Generative AI: in development.
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_AGENT = "gen_ai.agent.name"
GEN_AI_CONVERSATION = "gen_ai.conversation.id"
GEN_AI_MODEL = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_TOOL = "gen_ai.tool.name"
GEN_AI_TOOL_CALL = "gen_ai.tool.call.id"
INVOKE_AGENT = "invoke_agent"
EXECUTE_TOOL = "execute_tool"

# Our own.
SESSION_ID = "asm.session.id"
RUN_ID = "asm.run.id"
RETRIES = "asm.retries"
ROWS = "asm.rows"
RETRY = "asm.retry"
RETRY_PAUSE = "asm.retry.pause_s"
APPEND_BATCH_SIZE = "asm.append.batch_size"

GROUP_COMMIT = "group_commit"
"""The operation of a statement that several callers share."""

EVENTS = "asm_events"

TABLES = {
    **dict.fromkeys(
        (
            "save_session",
            "update_session",
            "get_session",
            "get_sessions",
            "list_sessions",
            "delete_session",
            "fork_session",
            "search_sessions",
            "get_session_stats",
            "export_session",
            "import_session",
            "start_session",
            "change_status",
            "flush",
        ),
        "asm_sessions",
    ),
    **dict.fromkeys(
        (
            "save_run",
            "update_run",
            "get_run",
            "list_runs",
            "get_active_run",
            "search_runs",
            "get_usage_summary",
            "get_cost_summary",
            "claim_run",
            "cancel_run",
            "end_run",
            "list_stale_runs",
        ),
        "asm_runs",
    ),
    **dict.fromkeys(
        (
            "append_event",
            "append_events",
            "get_event",
            "get_events",
            "pop_event",
            "delete_events",
            "search_events",
            "count_events",
            GROUP_COMMIT,
        ),
        EVENTS,
    ),
    "get_latest_sequence": "asm_session_sequences",
    **dict.fromkeys(
        ("register", "get_by_key", "list_by_session", "session_stats", "delete"), "asm_artifacts"
    ),
}
"""The table of an operation. One that changes a session with all that belongs to it is of that table."""
