"""The data of events, read as content: text, thinking, attachments, tool calls and their results.

Applications store in `Event.data` what their provider's SDK gives them, and each SDK spells it in its own
way. This package reads the project's own vocabulary (`{"role", "content"}`, `{"name", "input"}`,
`{"output"}`, `{"error"}`, `{"delta"}`), the messages and content blocks of Anthropic, OpenAI (chat and
Responses) and Google, and the `tool_name`, `tool_input` and `tool_output` of agent_session_manager. It does
no I/O, and it never raises: what it does not recognize is part of the result as it is. Operations, formats
and the command import it.
"""

from asm.content.messages import (
    FAILURES,
    ITEMS,
    MESSAGES,
    RESULTS,
    begun_by,
    read_content,
    read_delta,
    session_title,
)
from asm.content.parts import (
    IMAGE_TYPES,
    Content,
    Delta,
    Media,
    Other,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from asm.content.tools import error_text

__all__ = [
    "FAILURES",
    "IMAGE_TYPES",
    "ITEMS",
    "MESSAGES",
    "RESULTS",
    "Content",
    "Delta",
    "Media",
    "Other",
    "Part",
    "Text",
    "Thinking",
    "ToolCall",
    "ToolResult",
    "begun_by",
    "error_text",
    "read_content",
    "read_delta",
    "session_title",
]
