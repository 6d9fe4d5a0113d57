"""The conversation about the museum, as an agent of each framework has it and its integration stores it.

No model is asked: it is a script. Each function returns the id of the session.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import agent_framework
import agents
import strands
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from google.adk.agents import LlmAgent
from google.adk.models import LlmResponse
from google.adk.runners import Runner
from google.genai import types
from openai.types.responses import ResponseReasoningItem
from openai.types.responses.response_reasoning_item import Summary
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.conversation import Conversation
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage
from strands.models import Model
from strands.session.repository_session_manager import RepositorySessionManager

import asm
from asm.integrations.agent_framework import AsmHistoryProvider
from asm.integrations.claude_agent_sdk import AsmSessionStore
from asm.integrations.google_adk import AsmSessionService
from asm.integrations.openai_agents import AsmSession
from asm.integrations.pydantic_ai import AsmConversationStore
from asm.integrations.strands import AsmSessionRepository
from tests.web.museum import (
    ANSWER,
    ASKED,
    ERROR,
    FAILED,
    FOUND,
    HOURS,
    IMAGE,
    PNG,
    QUESTION,
    THOUGHT,
    hours,
)


def openai_agents(store: asm.SessionStore) -> str:
    agents.set_tracing_disabled(True)
    usage = Usage(
        requests=1,
        input_tokens=1_000,
        input_tokens_details=InputTokensDetails(cached_tokens=600, cache_write_tokens=0),
        output_tokens=100,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        total_tokens=1_100,
    )
    thought: Any = ResponseReasoningItem(
        id="rs_1", type="reasoning", summary=[Summary(text=THOUGHT, type="summary_text")]
    )
    calls = [function_call("hours", {"city": city}, call_id=f"call_{city}") for city in (FAILED, FOUND)]
    outputs: list[Any] = [[thought, calls[0]], [calls[1]], [assistant_message(ANSWER)]]
    model: Any = ScriptedModel([ModelStep(each, usage=usage) for each in outputs])
    model.model = "gpt-5"
    agent = agents.Agent(name="Guide", tools=[agents.function_tool(hours)], model=model)
    session = AsmSession("talk", store)
    content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": IMAGE}]
    said: Any = [{"role": "user", "content": content}]

    async def talk() -> None:
        await agents.Runner.run(agent, said, session=session, hooks=session.run_hooks())

    asyncio.run(talk())
    return "talk"


def pydantic_ai(store: asm.SessionStore) -> str:
    usage = RequestUsage(input_tokens=1_000, output_tokens=100, cache_read_tokens=600)
    answers: list[list[Any]] = [
        [ThinkingPart(THOUGHT), ToolCallPart("hours", {"city": FAILED})],
        [ToolCallPart("hours", json.dumps({"city": FOUND}))],
        [TextPart(ANSWER)],
    ]

    def answer(messages: list[ModelMessage], info: Any) -> ModelResponse:
        return ModelResponse(parts=answers.pop(0), usage=usage, provider_name="openai")

    def found(city: str) -> str:
        try:
            return hours(city)
        except ValueError as error:
            raise ModelRetry(str(error)) from error

    agent: Any = Agent(FunctionModel(answer, model_name="gpt-5"), system_prompt="Be brief.")
    agent.tool_plain(found, name="hours")

    async def talk() -> None:
        said = [QUESTION, BinaryContent(PNG, media_type="image/png")]
        result = await agent.run(said, conversation=Conversation(conversation_id="talk"))
        await AsmConversationStore(store).save(result)

    asyncio.run(talk())
    return "talk"


def google_adk(store: asm.SessionStore) -> str:
    def called(city: str) -> types.Part:
        return types.Part(
            function_call=types.FunctionCall(id=f"call {city}", name="hours", args={"city": city})
        )

    answers = [
        [types.Part(text=THOUGHT, thought=True), called(FAILED)],
        [called(FOUND)],
        [types.Part(text=ANSWER)],
    ]
    usage = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=1_000,
        cached_content_token_count=600,
        candidates_token_count=100,
        total_token_count=1_100,
    )

    def answer(callback_context: Any, llm_request: Any) -> LlmResponse:
        content = types.Content(role="model", parts=answers.pop(0))
        return LlmResponse(content=content, model_version="gemini-2.5-flash", usage_metadata=usage)

    def found(city: str) -> dict[str, str]:
        """The hours of a museum."""
        try:
            return {"result": hours(city)}
        except ValueError as error:
            # The way to tell the model of a failure. What a tool raises ends the run.
            return {"error": str(error)}

    found.__name__ = "hours"
    agent = LlmAgent(name="guide", model="gemini-2.5-flash", tools=[found], before_model_callback=answer)
    service = AsmSessionService(store)
    runner = Runner(app_name="tour", agent=agent, session_service=service, auto_create_session=True)
    image = types.Part(inline_data=types.Blob(data=PNG, mime_type="image/png"))
    said = types.Content(role="user", parts=[types.Part(text=QUESTION), image])

    async def talk() -> None:
        async for _ in runner.run_async(user_id="ada", session_id="talk", new_message=said):
            pass

    asyncio.run(talk())
    return "adk:tour:ada:talk"


def agent_framework_(store: asm.SessionStore) -> str:
    usage = agent_framework.UsageDetails(
        input_token_count=1_000, output_token_count=100, cache_read_input_token_count=600
    )
    content = agent_framework.Content
    calls = [
        content.from_function_call(call_id=f"call_{city}", name="hours", arguments=json.dumps({"city": city}))
        for city in (FAILED, FOUND)
    ]
    answers = [
        [content.from_text_reasoning(text=THOUGHT), calls[0]],
        [calls[1]],
        [content.from_text(ANSWER)],
    ]

    class Script(agent_framework.FunctionInvocationLayer, agent_framework.BaseChatClient):  # type: ignore[misc]
        OTEL_PROVIDER_NAME = "openai"
        model = "gpt-5"

        async def _inner_get_response(self, **kwargs: Any) -> Any:
            said = [agent_framework.Message("assistant", answers.pop(0))]
            return agent_framework.ChatResponse(messages=said, model="gpt-5", usage_details=usage)

    async def talk() -> None:
        provider = AsmHistoryProvider(store)
        agent = agent_framework.Agent(client=Script(), tools=[hours], context_providers=[provider])
        image = content.from_data(data=PNG, media_type="image/png")
        said = agent_framework.Message("user", [QUESTION, image])
        await agent.run(said, session=agent_framework.AgentSession(session_id="talk"))

    asyncio.run(talk())
    return "agent_framework:asm:talk"


def strands_(store: asm.SessionStore) -> str:
    answers: list[list[dict[str, Any]]] = [
        [{"thinking": THOUGHT}, {"city": FAILED}],
        [{"city": FOUND}],
        [{"text": ANSWER}],
    ]

    class Script(Model):
        def update_config(self, **config: Any) -> None: ...

        def get_config(self) -> Any:
            return {}

        def structured_output(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

        async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            blocks = answers.pop(0)
            yield {"messageStart": {"role": "assistant"}}
            for block in blocks:
                for event in _events(block):
                    yield event
            yield {"messageStop": {"stopReason": "tool_use" if "city" in blocks[-1] else "end_turn"}}
            usage = {
                "inputTokens": 1_000,
                "outputTokens": 100,
                "totalTokens": 1_100,
                "cacheReadInputTokens": 600,
            }
            yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}

    def _events(block: dict[str, Any]) -> Sequence[Any]:
        start: dict[str, Any] = {}
        if "city" in block:
            start = {"toolUse": {"toolUseId": f"t_{block['city']}", "name": "hours"}}
            delta: Any = {"toolUse": {"input": json.dumps(block)}}
        elif "thinking" in block:
            delta = {"reasoningContent": {"text": block["thinking"], "signature": "c2ln"}}
        else:
            delta = {"text": block["text"]}
        return (
            {"contentBlockStart": {"start": start}},
            {"contentBlockDelta": {"delta": delta}},
            {"contentBlockStop": {}},
        )

    repository = AsmSessionRepository(store, provider="bedrock", model="claude-opus-4-5")
    manager = RepositorySessionManager("talk", session_repository=repository)
    agent = strands.Agent(
        model=Script(),
        tools=[strands.tool(hours)],
        agent_id="guide",
        session_manager=manager,
        callback_handler=None,
    )
    image: Any = {"image": {"format": "png", "source": {"bytes": PNG}}}
    agent([{"text": QUESTION}, image])
    return "strands.agent:talk:guide"


def claude_agent_sdk(store: asm.SessionStore) -> str:
    """What the program of the SDK writes to the transcript."""
    usage = {"input_tokens": 400, "output_tokens": 100, "cache_read_input_tokens": 600}
    numbers = iter(range(100))
    parent: str | None = None

    def entry(role: str, content: Any, **more: Any) -> dict[str, Any]:
        nonlocal parent
        message: dict[str, Any] = {"role": role, "content": content}
        if role == "assistant":
            message |= {"model": "claude-opus-4-5", "id": f"msg_{next(numbers)}", "usage": usage}
        uuid, before = f"u{next(numbers)}", parent
        parent = uuid
        return {
            "type": role,
            "uuid": uuid,
            "parentUuid": before,
            "isSidechain": False,
            "sessionId": "talk",
            "timestamp": f"2026-03-01T10:00:{next(numbers):02}Z",
            "message": message,
            **more,
        }

    def called(city: str) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"toolu_{city}", "name": "hours", "input": {"city": city}}

    def returned(city: str, content: Any, **more: Any) -> dict[str, Any]:
        result = {"type": "tool_result", "tool_use_id": f"toolu_{city}", "content": content, **more}
        return entry("user", [result], toolUseResult=content)

    entries: Any = [
        entry("user", ASKED),
        entry("assistant", [{"type": "thinking", "thinking": THOUGHT, "signature": "sig"}]),
        entry("assistant", [called(FAILED)]),
        returned(FAILED, ERROR, is_error=True),
        entry("assistant", [called(FOUND)]),
        returned(FOUND, [{"type": "text", "text": HOURS}]),
        entry("assistant", [{"type": "text", "text": ANSWER}]),
    ]
    key: Any = {"project_key": "-srv-tour", "session_id": "talk"}
    transcripts = AsmSessionStore(store)

    async def talk() -> None:
        await transcripts.append(key, entries)
        await transcripts.list_session_summaries("-srv-tour")

    asyncio.run(talk())
    return "claude:talk:-srv-tour"
