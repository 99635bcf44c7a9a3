"""One tool round trip with each of the Python libraries that people build agents on; run in an environment of theirs.

`python_libraries.py LIBRARY URL` prints what the library made of the answers, as JSON. The model's weights are random:
calls are made because they are required, and what the last answer says does not matter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

QUESTION = "What will the weather be?"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Look.", "parameters": SCHEMA}}


def litellm(url: str) -> dict[str, Any]:
    import litellm

    found: dict[str, Any] = {"calls": [], "answers": []}
    for model, base in (("openai/default", f"{url}/v1"), ("anthropic/default", url)):
        options: dict[str, Any] = {"model": model, "api_base": base, "api_key": "x", "tools": [TOOL]}
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        chunks = litellm.completion(
            **options, messages=messages, max_tokens=200, tool_choice="required", stream=True
        )
        message = litellm.stream_chunk_builder(list(chunks), messages=messages).choices[0].message
        [call] = message.tool_calls
        found["calls"].append([call.function.name, json.loads(call.function.arguments)])
        messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        answer = litellm.completion(**options, messages=messages, max_tokens=8)
        found["answers"].append(answer.usage.prompt_tokens_details.cached_tokens)
    return found


def _langchain(chat: Any, tool_choice: str) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage, ToolMessage

    messages: list[Any] = [HumanMessage(QUESTION)]
    whole: Any = None
    for chunk in chat.bind_tools([TOOL], tool_choice=tool_choice).stream(messages):
        whole = chunk if whole is None else whole + chunk
    [call] = whole.tool_calls
    messages += [whole, ToolMessage("rain", tool_call_id=call["id"])]
    answer = chat.bind_tools([TOOL]).invoke(messages)
    cached = answer.usage_metadata["input_token_details"]["cache_read"]
    return {"calls": [[call["name"], call["args"]]], "answers": [cached]}


def langchain_openai(url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    return _langchain(
        ChatOpenAI(model="default", base_url=f"{url}/v1", api_key="x", max_tokens=200), "required"
    )


def langchain_anthropic(url: str) -> dict[str, Any]:
    from langchain_anthropic import ChatAnthropic

    return _langchain(ChatAnthropic(model="default", base_url=url, api_key="x", max_tokens=200), "any")


def langchain_ollama(url: str) -> dict[str, Any]:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    # The API has no way to require a call: a form stands for it.
    options: dict[str, Any] = {"model": "default", "base_url": url, "temperature": 0}
    chat, brief = ChatOllama(**options, num_predict=200), ChatOllama(**options, num_predict=4)
    whole: Any = None
    for chunk in ChatOllama(**options, num_predict=200, format=SCHEMA).stream([HumanMessage(QUESTION)]):
        whole = chunk if whole is None else whole + chunk
    typed = chat.with_structured_output({**SCHEMA, "title": "weather"}, method="json_schema").invoke(QUESTION)
    call = {"name": "weather", "args": {"city": "Oslo", "days": 1}, "id": "call_1"}
    answer = brief.bind_tools([TOOL]).invoke(
        [HumanMessage(QUESTION), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id="call_1")]
    )
    vectors = OllamaEmbeddings(model="default", base_url=url).embed_documents(["a river", "a lake"])
    return {
        "calls": [["weather", json.loads(whole.content)], ["weather", typed]],
        "answers": [answer.usage_metadata["input_tokens"]],
        "vectors": vectors,
    }


def pydantic_ai(url: str) -> dict[str, Any]:
    from pydantic import BaseModel, Field
    from pydantic_ai import Agent, RunContext
    from pydantic_ai.capabilities import PrepareOutputTools
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.tools import ToolDefinition

    class Forecast(BaseModel):
        rain: bool
        degrees: int = Field(ge=-50, le=50)

    calls: list[Any] = []

    async def once(_: RunContext[None], tool: ToolDefinition) -> ToolDefinition | None:
        return None if calls else tool

    async def afterwards(_: RunContext[None], tools: list[ToolDefinition]) -> list[ToolDefinition]:
        return tools if calls else []

    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="x"))
    agent: Any = Agent(
        model,
        output_type=Forecast,
        model_settings={"max_tokens": 200},
        capabilities=[PrepareOutputTools(afterwards)],
    )

    @agent.tool_plain(prepare=once)
    def weather(city: str, days: int) -> str:
        calls.append(["weather", {"city": city, "days": days}])
        return "rain"

    output = agent.run_sync(QUESTION).output
    return {"calls": calls, "answers": [output.degrees]}


LIBRARIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "litellm": litellm,
    "langchain-openai": langchain_openai,
    "langchain-anthropic": langchain_anthropic,
    "langchain-ollama": langchain_ollama,
    "pydantic-ai": pydantic_ai,
}

if __name__ == "__main__":
    print(json.dumps(LIBRARIES[sys.argv[1]](sys.argv[2])))
