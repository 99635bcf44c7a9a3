"""Turns conversations into text through a model's own chat template, so that equal conversations give equal text.

Anything else would never be found in the cache. Rendering is deterministic; unless told otherwise, tool schemas are
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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

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

TOOL_START, TOOL_END = "<tool_call>", "</tool_call>"

_TOOL_PROMPT = (
    "You may call these tools. Each is given as JSON with its name, what it does, and the JSON schema of its "
    "arguments:\n{tools}\nTo call one, answer with nothing but\n"
    '<tool_call>\n{{"name": "the tool\'s name", "arguments": {{…}}}}\n</tool_call>\n'
    "for each call. Results come back in <tool_response> tags."
)

_SHORT_CALL_ID = "length 9"
"""Mistral's templates refuse call ids that are not nine letters and digits, and say so in these words."""

SHORTEST = ChatPrompt((Message.of("user", "?"),))
"""What every template accepts."""

Entry = dict[str, Any]


class ChatTemplate:
    """One model's template. Callable from any thread."""

    def __init__(self, wrapper: TokenizerWrapper, *, canonicalize: bool = True) -> None:
        """Take mlx-lm's wrapper; `canonicalize` drops what differs between equal prompts."""
        self._wrapper = wrapper
        self._canonicalize = canonicalize
        self.text = _template_text(wrapper)
        self.knows_tools = "tools" in self.text

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Return the conversation's text.

        Raises:
            InvalidRequestError: The template refuses the conversation in every form we know.
            UnsupportedError: The model has no template.
        """
        if add_generation_prompt and prompt.prefill is not None:
            return self._continued(prompt)
        if not self._wrapper.has_chat_template:
            raise UnsupportedError(
                "this model has no chat template: it continues text, so use /v1/completions", param="messages"
            )
        options = self._options(prompt)
        if self.knows_tools and prompt.tools:
            options["tools"] = [self.tool(tool) for tool in prompt.tools]
        options |= {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        refusal: Exception | None = None
        for messages in _forms(self._messages(prompt)):
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
        # How a prompt ends depends on the options, not on what was said: the shortest conversation tells.
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
        names = {p.call_id: p.name for m in prompt.messages for p in m.parts if isinstance(p, ToolCallPart)}
        messages = [entry for message in prompt.messages for entry in self._entries(message, names)]
        if self.knows_tools or not prompt.tools:
            return messages
        tools = "\n".join(json.dumps(self.tool(t)["function"], ensure_ascii=False) for t in prompt.tools)
        described = _TOOL_PROMPT.format(tools=tools)
        if messages and messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n\n{described}"}
        else:
            messages.insert(0, {"role": "system", "content": described})
        return messages

    def _entries(self, message: Message, names: Mapping[str, str]) -> list[Entry]:
        if self._canonicalize:
            kept = without_volatile_header(message)
            if not kept.parts and message.parts:
                return []
            message = kept
        text = message.text
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        if results:
            entries = [self._result(result, names) for result in results]
            return [*entries, {"role": "user", "content": text}] if text else entries
        entry: Entry = {"role": message.role, "content": text}
        thinking = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
        for key in ("reasoning_content", "thinking"):
            if thinking and re.search(rf"\.{key}\b|\[['\"]{key}['\"]\]|['\"]{key}['\"] in ", self.text):
                entry[key] = thinking
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls and self.knows_tools:
            entry["tool_calls"] = [self._call(call) for call in calls]
        elif calls:
            written = "\n".join(_written(call) for call in calls)
            entry["content"] = f"{text}\n{written}" if text else written
        return [entry]

    def _call(self, call: ToolCallPart) -> Entry:
        function = {"name": call.name, "arguments": dict(call.arguments)}
        return {"type": "function", "id": self._call_id(call.call_id), "function": function}

    def _result(self, result: ToolResultPart, names: Mapping[str, str]) -> Entry:
        content = f"Error: {result.content}" if result.is_error else result.content
        if not self.knows_tools:
            return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
        entry = {"role": "tool", "content": content, "tool_call_id": self._call_id(result.call_id)}
        if result.call_id in names:
            entry["name"] = names[result.call_id]
        return entry

    def _call_id(self, call_id: str) -> str:
        if _SHORT_CALL_ID not in self.text or re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
            return call_id
        return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _template_text(wrapper: TokenizerWrapper) -> str:
    """Return what can be searched for the variables that a template knows."""
    template = wrapper.chat_template
    if template:
        return str(template)
    # Some families are rendered by Python code: its parameters are the variables.
    renderer = vars(wrapper).get("_chat_template")
    return " ".join(inspect.signature(renderer).parameters) if callable(renderer) else ""


def _written(call: ToolCallPart) -> str:
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{TOOL_START}\n{body}\n{TOOL_END}"


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


def _forms(messages: list[Entry]) -> Iterator[list[Entry]]:
    """Give a conversation in forms that more and more templates accept; each loses a little more structure."""
    yield messages
    for change in (_one_system, _system_in_user, _joined):
        changed = change(messages)
        if changed != messages:
            yield changed
        messages = changed


def _one_system(messages: list[Entry]) -> list[Entry]:
    """Join system text at the beginning; later system text is said by the user, in its place."""
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


def _joined(messages: list[Entry]) -> list[Entry]:
    """Join neighbours of one role, and let the user bring tool results and the assistant write its calls."""
    joined: list[Entry] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        calls = [ToolCallPart(c["id"], **c["function"]) for c in message.get("tool_calls", ())]
        content = "\n".join([*([content] if content or not calls else []), *map(_written, calls)])
        if joined and joined[-1]["role"] == role:
            joined[-1] = {"role": role, "content": f"{joined[-1]['content']}\n\n{content}"}
        else:
            joined.append({"role": role, "content": content})
    return joined
