"""Content blocks: the parts of a message, in the spelling of every SDK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from asm.content import tools
from asm.content.fields import as_list, as_text, take
from asm.content.parts import Media, Other, Part, Text, Thinking, ToolResult
from asm.content.tools import is_call, is_result, read_call
from asm.documents import Document


def read_blocks(content: Any, depth: int = 0) -> Iterator[Part]:
    """The parts of a message's content: a text, a block, or a list of both."""
    for block in as_list(content):
        if isinstance(block, dict) and depth < _DEPTH_MAX:
            yield from read_block(block, depth + 1)
        elif isinstance(block, str):
            if block.strip():
                yield Text(block)
        elif block is not None:
            yield Other(block)


_DEPTH_MAX = 8


def read_block(block: Document, depth: int = 0) -> Iterator[Part]:
    block = _with_type(block)
    type = block.get("type")
    kind = type.replace("-", "_") if isinstance(type, str) else None
    if kind in _TEXTS or (kind is None and isinstance(block.get("text"), str)):
        text, rest = take(block, ("text", "refusal", "value"))
        text = text if isinstance(text, str) else as_text(text)
        if text.strip():
            yield Thinking(text) if rest.get("thought") is True else Text(text)
    elif kind in THOUGHTS or block.keys() & {"reasoningContent", "reasoningText"}:
        yield _read_thought(block, depth)
    elif kind == "message":
        yield from read_blocks(block.get("content", block.get("contents")), depth)
    elif kind in _MEDIA:
        yield _read_media(kind, block)
    elif is_result(block, None):
        yield read_result(dict(block))[0]
    elif is_call(block, kind):
        yield read_call(dict(block))[0]
    elif wrapper := next((name for name in _MEDIA_WRAPPERS if isinstance(block.get(name), dict)), None):
        yield _read_media(wrapper, block)
    else:
        yield Other(block)


_TEXTS = ("text", "input_text", "output_text", "refusal")
THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text", "text_reasoning")
_MEDIA = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "output_image": "image",
    "computer_screenshot": "image",
    "image_generation_call": "image",
    "audio": "audio",
    "input_audio": "audio",
    "output_audio": "audio",
    "video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
    "data": "file",
    "uri": "file",
}
_MEDIA_WRAPPERS = (
    *("inlineData", "inline_data", "fileData", "file_data"),
    *("image", "audio", "video", "document"),
)


_PART_KINDS = {
    **dict.fromkeys(("user-prompt", "text", "text-content", "file", "speech", "retry-feedback"), "message"),
    **dict.fromkeys(("tool-call", "builtin-tool-call"), "tool_call"),
    **dict.fromkeys(("tool-return", "builtin-tool-return", "retry-prompt"), "tool_result"),
    **dict.fromkeys(("binary", "document-url", "uploaded-file"), "file"),
    "thinking": "thinking",
    "image-url": "image",
    "audio-url": "audio",
    "video-url": "video",
}


def _with_type(block: Document) -> Document:
    """A part of a message of pydantic-ai, or of a prompt in it, with the type of the block that it is."""
    kind = block.get("part_kind") or block.get("kind")
    if kind == "system-prompt":
        return {"system": block.get("content")}
    if "type" in block or not isinstance(kind, str) or kind not in _PART_KINDS:
        return block
    is_error = block.get("outcome", kind) in ("failed", "retried", "retry-prompt")
    return {**block, "type": _PART_KINDS[kind], "is_error": is_error}


def _read_thought(block: Document, depth: int) -> Thinking:
    thought, _ = take(block, ("thinking", "text", "summary", "content", "reasoningContent", "reasoningText"))
    parts = read_blocks(thought, depth)
    # A Responses item's summary is a list of `summary_text` blocks, which are thinking themselves.
    return Thinking(joined(parts) or "(hidden)")


def _read_media(kind: str, block: Document) -> Media:
    """Describe an attachment by its name or address, and by its type and size, without its bytes."""
    values = dict(_scalars(block))
    type = next((values[name] for name in _MEDIA_TYPES if name in values), None)
    names = (values[name] for name in ("filename", "file_name", "title", "name") if name in values)
    addresses = (
        values[name]
        for name in ("url", "uri", "image_url", "file_url", "file_uri", "fileUri", "file_id")
        if name in values
    )
    words = [*names, *(each for each in addresses if not each.startswith("data:"))]
    encoded = next((values[name] for name in ("data", "file_data", "result") if name in values), "")
    for address in (*(values.get(name, "") for name in ("url", "uri", "image_url")), encoded):
        if address.startswith("data:"):
            head, _, encoded = address.partition(",")
            type = type or head[5:].partition(";")[0]
    kind = _MEDIA.get(kind, "file")
    if type and "/" in type:
        # A block of any kind of file says only in its type that it is an image.
        kind = type.partition("/")[0] if type.startswith(("image/", "audio/", "video/")) else kind
    elif type and kind != "file":
        # Bedrock's `{"image": {"format": "png"}}`.
        type = f"{kind}/{type}"
    if type:
        words.append(type)
    if encoded:
        words.append(f"{len(encoded) * 3 // 4:,} bytes")
    return Media(kind, ", ".join(words), type, encoded)


_MEDIA_TYPES = ("media_type", "mime_type", "mimeType", "format")


def _scalars(block: Document, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The strings of a block and of the objects in it."""
    for name, value in block.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict) and depth < 3:
            yield from _scalars(value, depth + 1)


def joined(parts: Iterable[Part]) -> str:
    """The parts as one text, without calls and results."""
    return "\n".join(filter(None, map(_part_text, parts)))


def _part_text(part: Part) -> str:
    if isinstance(part, Text | Thinking):
        return part.text
    if isinstance(part, Media):
        return f"[{part.kind} {part.description}]" if part.description else f"[{part.kind}]"
    return as_text(part.value) if isinstance(part, Other) else ""


def read_result(data: Document, *, failed: bool = False) -> tuple[ToolResult, Document]:
    """A tool's result with its content blocks joined, and the fields that are not part of it."""
    result, rest = tools.read_result(data, failed=failed)
    output, is_error = _result_output(result.output)
    return replace(result, output=output, failed=result.failed or is_error), rest


def _result_output(output: Any) -> tuple[Any, bool]:
    """The output with its content blocks joined, and whether it says itself that it is an error."""
    if isinstance(output, dict) and isinstance(output.get("content"), list):
        text, _ = _result_output(output["content"])
        # An MCP result; what else it has is kept.
        only_content = not output.keys() - {"content", "isError", "is_error", "_meta", "structuredContent"}
        is_error = output.get("isError") is True or output.get("is_error") is True
        return (text if only_content else output), is_error
    if isinstance(output, dict) and output.get("type") == "computer_screenshot":
        output = [output]
    if isinstance(output, list) and output and all(map(_is_shown_block, output)):
        return joined(read_blocks(output)), False
    return output, False


def _is_shown_block(block: Any) -> bool:
    return isinstance(block, dict) and (
        block.get("type") in (*_TEXTS, *_MEDIA)
        or (block.keys() == {"text"} and isinstance(block["text"], str))
    )
