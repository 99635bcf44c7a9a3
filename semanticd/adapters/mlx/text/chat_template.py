"""Turns conversations into text through a model's own chat template, so that equal conversations give equal text.

Anything else would never be found in the cache. Rendering is deterministic; unless set otherwise, tool schemas are
written with sorted keys and header lines that change from prompt to prompt are dropped. Templates that know no tools
get them in the system text, in the JSON form that most models know; templates that refuse system text or neighbours
of one role get them merged.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from semanticd.adapters.mlx.text.tool_families import ToolFamily
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.volatile_header import without_volatile_header

_TOOL_PROMPT = (
    "You may call these tools. Each is given as JSON with its name, what it does, and the JSON schema of its "
    "arguments:\n{tools}\nTo call one, answer with nothing but\n"
    "{call}\n"
    "for each call.{results}"
)
_RESULTS = " Results come back in <tool_response> tags."

_SHORT_CALL_ID = "length 9"
"""Mistral's templates refuse call ids that are not nine letters and digits, and say so in these words."""
_NUMBERED_CALLS = "<|tool_call_argument_begin|>"
"""Kimi's templates write a call's id in the place of its name: `functions.look:0`, numbered through a conversation."""
_TOOL_ROLE = re.compile(r"['\"]tool['\"]")

_THINKING = re.compile(r"\b(?:if|not|set) thinking\b|\bthinking is (?:not )?defined")
"""Uses of `thinking`, the name that DeepSeek V3.1 and Granite give to the option `enable_thinking`."""

_Known = dict[str, list[tuple[str, str]]]
"""Ids as the template wants them, and tools' names, of the latest calls with an id that the client knows."""

SHORTEST = ChatPrompt((Message.of("user", "?"),))
"""A prompt that every template accepts."""

Entry = dict[str, Any]


class ChatTemplate:
    """One model's template. Callable from any thread."""

    def __init__(self, wrapper: TokenizerWrapper, *, family: ToolFamily, canonicalize: bool = True) -> None:
        """Take mlx-lm's wrapper; `canonicalize` drops what differs between equal prompts."""
        self._wrapper = wrapper
        self._family = family
        self._canonicalize = canonicalize
        self.text = template_text(wrapper)
        self.knows_tools = "tools" in self.text
        self._thinks_by_another_name = "enable_thinking" not in self.text and bool(
            _THINKING.search(self.text)
        )
        self._writes_calls = family.writes_history or not self.knows_tools
        self._knows_results = self.knows_tools or (family.writes_history and _TOOL_ROLE.search(self.text))

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Return the conversation's text.

        Raises:
            InvalidRequestError: The template refuses the conversation in every form we know, or the conversation is
                nested too deeply to be written.
            UnsupportedError: The model has no template.
        """
        if add_generation_prompt and prompt.prefill is not None:
            return self._continued(prompt)
        try:
            return self._rendered(prompt, add_generation_prompt=add_generation_prompt)
        except RecursionError:
            raise InvalidRequestError(
                "a tool or a call of the conversation is nested too deeply", param="messages"
            ) from None

    def _rendered(self, prompt: ChatPrompt, *, add_generation_prompt: bool) -> str:
        if not self._wrapper.has_chat_template:
            raise UnsupportedError(
                "this model has no chat template: it only continues text; use /v1/completions",
                param="messages",
            )
        options = self._options(prompt)
        if self.knows_tools and prompt.tools:
            options["tools"] = [self.tool(tool) for tool in prompt.tools]
        options |= {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        refusal: Exception | None = None
        for messages in _forms(self._messages(prompt), self._written):
            try:
                return str(self._wrapper.apply_chat_template(messages, **options))
            except Exception as error:  # noqa: BLE001, PERF203 (templates raise what they like)
                refusal = refusal or error
        raise InvalidRequestError(
            f"the model's chat template refuses this conversation: {refusal}", param="messages"
        ) from refusal

    def _continued(self, prompt: ChatPrompt) -> str:
        """Return the text up to and with the beginning of the answer, which the client wrote.

        White space at its end is left out: the model would put the word after it together differently.
        """
        options = {**prompt.template_options, "enable_thinking": False}
        text = self.render(replace(prompt, messages=prompt.messages[:-1], template_options=options))
        start, end = self._wrapper.think_start, self._wrapper.think_end
        if start and end and text.rfind(start) > text.rfind(end):
            text = f"{text.rstrip()}\n\n{end}\n\n"
        return text + (prompt.prefill or "").rstrip()

    def _options(self, prompt: ChatPrompt) -> Entry:
        options = {key: value for key, value in prompt.template_options.items() if key in self.text}
        if "enable_thinking" in prompt.template_options and self._thinks_by_another_name:
            options.setdefault("thinking", prompt.template_options["enable_thinking"])
        if prompt.tool_choice.mode == "required" and prompt.tools and "enable_thinking" in self.text:
            # A call that must come is written at once; thinking first would be outside the enforced form.
            options.setdefault("enable_thinking", False)
        return options

    def opens(self, start: str, end: str, prompt: ChatPrompt) -> bool:
        """Return whether the text before an answer ends after `start` and before `end` (such as `<think>`)."""
        if start not in self.text:
            return False
        return self._opens(start, end, json.dumps(self._options(prompt), sort_keys=True, default=str))

    @functools.lru_cache(maxsize=64)  # noqa: B019 (lives as long as the model's tokenizer)
    def _opens(self, start: str, end: str, options: str) -> bool:
        # A prompt's end depends on the options, not on the conversation: the shortest conversation shows it.
        try:
            tail = self.render(replace(SHORTEST, template_options=json.loads(options)))
        except InvalidRequestError:
            return False
        return tail.rfind(start) > tail.rfind(end)

    def tool(self, tool: ToolSpec) -> Entry:
        """Return a tool in the form that templates and parsers expect."""
        parameters: Any = dict(tool.parameters)
        if self._canonicalize:
            parameters = _sorted(parameters)
        return {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
        }

    def changes(self, prompt: ChatPrompt) -> tuple[str, ...]:
        """Name what is dropped or put in order in this conversation: `volatile_header`, `tool_key_order`."""
        if not self._canonicalize:
            return ()
        found = []
        if any(without_volatile_header(message) is not message for message in prompt.messages):
            found.append("volatile_header")
        if any(_is_unsorted(tool.parameters) for tool in prompt.tools):
            found.append("tool_key_order")
        return tuple(found)

    # Messages.

    def _messages(self, prompt: ChatPrompt) -> list[Entry]:
        messages: list[Entry] = []
        # Some clients use an id again in each turn: a result belongs to the latest call before it.
        known: _Known = {}
        num_calls = 0
        for message in prompt.messages:
            calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
            ids = [self._call_id(call, num_calls + at) for at, call in enumerate(calls)]
            known |= {call.call_id: [] for call in calls}
            for made, call_id in zip(calls, ids, strict=True):
                known[made.call_id].append((call_id, made.name))
            num_calls += len(calls)
            messages += self._entries(message, ids, known)
        if self.knows_tools or not prompt.tools:
            return messages
        tools = "\n".join(json.dumps(self.tool(t)["function"], ensure_ascii=False) for t in prompt.tools)
        call = self._family.spelling.written([("the tool's name", "{…}")])
        results = "" if self._knows_results else _RESULTS
        described = _TOOL_PROMPT.format(tools=tools, call=call, results=results)
        if messages and messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n\n{described}"}
        else:
            messages.insert(0, {"role": "system", "content": described})
        return messages

    def _entries(self, message: Message, call_ids: Sequence[str], known: _Known) -> list[Entry]:
        if self._canonicalize:
            kept = without_volatile_header(message)
            if not kept.parts and message.parts:
                return []
            message = kept
        text = message.text
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        if results:
            entries = [self._result(result, known) for result in results]
            return [*entries, {"role": "user", "content": text}] if text else entries
        entry: Entry = {"role": message.role, "content": text}
        thinking = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
        for key in ("reasoning_content", "thinking"):
            if thinking and re.search(rf"\.{key}\b|\[['\"]{key}['\"]\]|['\"]{key}['\"] in ", self.text):
                entry[key] = thinking
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls and self._writes_calls:
            written = self._written([(call.name, dict(call.arguments)) for call in calls])
            joint = "\n" if self._family.spelling.joint is None else ""
            entry["content"] = f"{text}{joint}{written}" if text else written
        elif calls:
            entry["tool_calls"] = [
                self._call(call, call_id) for call, call_id in zip(calls, call_ids, strict=True)
            ]
        return [entry]

    def _written(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Return calls as the family spells them."""
        return self._family.spelling.written(
            [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
        )

    def _call(self, call: ToolCallPart, call_id: str) -> Entry:
        function = {"name": call.name, "arguments": dict(call.arguments)}
        return {"type": "function", "id": call_id, "function": function}

    def _result(self, result: ToolResultPart, known: _Known) -> Entry:
        content = f"Error: {result.content}" if result.is_error else result.content
        if not self._knows_results:
            return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
        calls = known.get(result.call_id) or [(self._short_id(result.call_id), "")]
        # Several calls of one message may have one id; their results come in their order.
        call_id, name = calls.pop(0) if len(calls) > 1 else calls[0]
        entry = {"role": "tool", "content": content, "tool_call_id": call_id}
        if name:
            entry["name"] = name
        return entry

    def _call_id(self, call: ToolCallPart, number: int) -> str:
        """Return a call's id as the family's templates want it; clients bring ids of their own."""
        if _NUMBERED_CALLS in self.text:
            return f"functions.{call.name}:{number}"
        return self._short_id(call.call_id)

    def _short_id(self, call_id: str) -> str:
        if _SHORT_CALL_ID not in self.text or re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
            return call_id
        return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def template_text(wrapper: TokenizerWrapper) -> str:
    """Return what can be searched for the variables that a template knows."""
    template = wrapper.chat_template
    if template:
        return str(template)
    # Some families are rendered by Python code: its parameters are the variables.
    renderer = vars(wrapper).get("_chat_template")
    return " ".join(inspect.signature(renderer).parameters) if callable(renderer) else ""


def _sorted(value: Any) -> Any:
    """Sort the keys of objects at every depth; lists keep their order, which may mean something."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def _is_unsorted(value: Any) -> bool:
    if isinstance(value, Mapping):
        keys = list(value)
        return keys != sorted(keys) or any(map(_is_unsorted, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_is_unsorted, value))


Write = Callable[[Sequence[tuple[str, Any]]], str]


def _forms(messages: list[Entry], write: Write) -> Iterator[list[Entry]]:
    """Give a conversation in forms that more and more templates accept; each loses a little more structure."""
    yield messages
    yield from _with_json_arguments(messages)
    for change in (_one_system, _system_in_user, functools.partial(_joined, write=write)):
        changed = change(messages)
        if changed != messages:
            yield changed
            yield from _with_json_arguments(changed)
        messages = changed


def _with_json_arguments(messages: list[Entry]) -> Iterator[list[Entry]]:
    """Give the conversation once more if it has calls, for templates that take their arguments as JSON text only."""
    if any("tool_calls" in message for message in messages):
        yield [
            {**message, "tool_calls": [_json_call(call) for call in message["tool_calls"]]}
            if "tool_calls" in message
            else message
            for message in messages
        ]


def _json_call(call: Entry) -> Entry:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _one_system(messages: list[Entry]) -> list[Entry]:
    """Join system text at the beginning; later system text becomes a user message at its position."""
    leading = list(itertools.takewhile(lambda m: m["role"] == "system", messages))
    later = [{**m, "role": "user"} if m["role"] == "system" else m for m in messages[len(leading) :]]
    system = "\n\n".join(m["content"] for m in leading if m["content"])
    return [{"role": "system", "content": system}, *later] if system else later


def _system_in_user(messages: list[Entry]) -> list[Entry]:
    """Put the system text in front of the first user message."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, rest = messages[0]["content"], messages[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def _joined(messages: list[Entry], write: Write) -> list[Entry]:
    """Join neighbours of one role, and let the user bring tool results and the assistant write its calls."""
    joined: list[Entry] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if message.get("tool_calls"):
            functions = [call["function"] for call in message["tool_calls"]]
            written = write([(function["name"], function["arguments"]) for function in functions])
            content = f"{content}\n{written}" if content else written
        if joined and joined[-1]["role"] == role:
            joined[-1] = {"role": role, "content": f"{joined[-1]['content']}\n\n{content}"}
        else:
            joined.append({"role": role, "content": content})
    return joined
