"""MlxTokenizer: text to ids and back, and conversations to text through the model's own chat template.

Equal conversations must give equal text, or nothing is ever found in the cache: rendering is deterministic, tool
schemas are written with sorted keys, and header lines that change from prompt to prompt are dropped (both can be
switched off). Templates that know no tools get them in the system text, in the JSON form that most models know.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlx_lm import tool_parsers
from mlx_lm.tokenizer_utils import TokenizerWrapper

from semanticd.adapters.mlx.constraints import ConstraintCompiler, tool_grammar
from semanticd.adapters.mlx.output_parser import Markup, MlxOutputParser
from semanticd.adapters.mlx.stream_decoder import MlxStreamDecoder
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.generation import OutputConstraint

_TOOL_START, _TOOL_END = "<tool_call>", "</tool_call>"

_TOOL_PROMPT = (
    "You may call these tools. Each is given as JSON with its name, what it does, and the JSON schema of its "
    "arguments:\n{tools}\nTo call one, answer with nothing but\n"
    '<tool_call>\n{{"name": "the tool\'s name", "arguments": {{…}}}}\n</tool_call>\n'
    "for each call. Results come back in <tool_response> tags."
)

# Coding agents put a line like `x-anthropic-billing-header: …; cch=1a2b3` first; its value differs between prompts.
_VOLATILE_LINE = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?", re.MULTILINE)


class MlxTokenizer:
    """One model's tokenizer and chat template; see the port `Tokenizer`. Callable from any thread."""

    def __init__(
        self,
        wrapper: TokenizerWrapper,
        *,
        model_type: str = "",
        tool_parser: str | None = None,
        canonicalize: bool = True,
        vocab_size: int | None = None,
    ) -> None:
        """Take mlx-lm's wrapper; `tool_parser` names a parser of mlx-lm where the template does not tell."""
        self._wrapper = wrapper
        self._model_type = model_type
        self._canonicalize = canonicalize
        self._template = str(wrapper.chat_template or "")
        self._vocab_size = max(vocab_size or 0, len(wrapper))
        self._markup = _markup(wrapper, tool_parser)
        self._knows_tools = "tools" in self._template
        eos = frozenset(int(token) for token in wrapper.eos_token_ids)
        self._eos = eos | self._end_of_turn()
        self._special = dict(zip(wrapper.all_special_tokens, wrapper.all_special_ids, strict=True))
        markers = {m for m in (self._markup.tool_start, self._markup.think_start) if m}
        markers |= {m for m in (self._markup.tool_end, self._markup.think_end) if m}
        self._silent = frozenset(
            token_id
            for token, token_id in self._special.items()
            if not any(token in marker for marker in markers)
        )
        self.constraints = ConstraintCompiler(
            wrapper.backend_tokenizer,
            vocab_size=self._vocab_size,
            eos_token_ids=sorted(self._eos),
            think_start=self.encode(self._markup.think_start or ""),
            think_end=self.encode(self._markup.think_end or ""),
        )

    def _end_of_turn(self) -> frozenset[int]:
        """Some conversions name only the end of the document as EOS; the template's end of turn counts too."""
        known = self._wrapper.get_vocab()
        names = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|call|>", "<|end_of_turn|>")
        return frozenset(known[name] for name in names if name in known and name in self._template)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end the model's turn."""
        return self._eos

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written in it are recognised."""
        ids: list[int] = self._wrapper.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self._wrapper.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def stream_decoder(self) -> MlxStreamDecoder:
        """Return a fresh decoder."""
        return MlxStreamDecoder(self.decode, silent=self._silent)

    # Rendering.

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Apply the chat template."""
        messages = self._messages(prompt)
        options: dict[str, Any] = {k: v for k, v in prompt.template_options.items() if k in self._template}
        if self._knows_tools and prompt.tools and prompt.tool_choice.mode != "none":
            options["tools"] = [self._tool(tool) for tool in prompt.tools]
        options |= {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        try:
            return self._apply(messages, options)
        except Exception as error:
            # Templates raise what they like, most often about system text or roles that do not alternate.
            merged = _merged(messages)
            if merged == messages:
                raise _refused(error) from error
        try:
            return self._apply(merged, options)
        except Exception as error:
            raise _refused(error) from error

    def _apply(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        text: str = self._wrapper.apply_chat_template(messages, **options)
        return text

    def _messages(self, prompt: ChatPrompt) -> list[dict[str, Any]]:
        messages = [entry for message in prompt.messages for entry in self._entries(message)]
        if prompt.tools and not self._knows_tools and prompt.tool_choice.mode != "none":
            tools = "\n".join(_canonical_json(self._tool(tool)["function"]) for tool in prompt.tools)
            described = _TOOL_PROMPT.format(tools=tools)
            if messages and messages[0]["role"] == "system":
                messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n\n{described}"}
            else:
                messages.insert(0, {"role": "system", "content": described})
        return messages

    def _entries(self, message: Message) -> list[dict[str, Any]]:
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        if message.role == "system" and self._canonicalize:
            text = _VOLATILE_LINE.sub("", text)
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        if results:
            entries = [self._result(result) for result in results]
            return [*entries, {"role": "user", "content": text}] if text else entries
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        thinking = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
        entry: dict[str, Any] = {"role": message.role, "content": text}
        if thinking and "reasoning_content" in self._template:
            entry["reasoning_content"] = thinking
        if calls and self._knows_tools:
            entry["tool_calls"] = [
                {
                    "type": "function",
                    "id": c.call_id,
                    "function": {"name": c.name, "arguments": dict(c.arguments)},
                }
                for c in calls
            ]
        elif calls:
            entry["content"] = text + "".join(
                ("\n" if text or i else "") + _written(c) for i, c in enumerate(calls)
            )
        return [entry]

    def _result(self, result: ToolResultPart) -> dict[str, Any]:
        content = f"Error: {result.content}" if result.is_error else result.content
        if self._knows_tools:
            return {"role": "tool", "content": content, "tool_call_id": result.call_id}
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}

    def _tool(self, tool: ToolSpec) -> dict[str, Any]:
        parameters: Any = dict(tool.parameters)
        if self._canonicalize:
            parameters = _sorted(parameters)
        return {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
        }

    # Answers.

    def output_parser(self, prompt: ChatPrompt, *, choice: int = 0) -> MlxOutputParser:
        """Return a fresh parser for an answer to this prompt."""
        offered = prompt.tools if prompt.tool_choice.mode != "none" else ()
        return MlxOutputParser(
            self._markup,
            tools=[self._tool(tool) for tool in offered],
            begins_thinking=self._begins_thinking(prompt),
            choice=choice,
        )

    def _begins_thinking(self, prompt: ChatPrompt) -> bool:
        """Whether the template ends inside thinking: only a rendered prompt tells."""
        start, end = self._markup.think_start, self._markup.think_end
        if not start or not end or start not in self._template:
            return False
        tail = self.render(prompt)[-200:]
        return tail.rfind(start) > tail.rfind(end)

    def tool_constraint(self, prompt: ChatPrompt) -> OutputConstraint | None:
        """Return the form that enforces the prompt's tool choice, or None."""
        if prompt.tool_choice.mode != "required" or not prompt.tools:
            return None
        names = prompt.tool_choice.names
        tools = [tool for tool in prompt.tools if not names or tool.name in names]
        if not tools:
            raise InvalidRequestError(
                f"tool_choice names {', '.join(names)}, which is not among the tools", param="tool_choice"
            )
        return tool_grammar(
            tools,
            start=self._markup.tool_start or "",
            end=self._markup.tool_end or "",
            parallel=prompt.tool_choice.parallel,
            special=self._special,
        )

    def with_thinking(
        self, prompt: ChatPrompt, constraint: OutputConstraint | None, *, budget: int | None, max_tokens: int
    ) -> OutputConstraint | None:
        """Return the constraint with the thinking that may come before it, for models that think."""
        if not self._markup.think_end:
            return constraint
        begins = self._begins_thinking(prompt)
        if constraint is None:
            if budget is None:
                return None
            return OutputConstraint("any", thinking_budget=budget, begins_thinking=begins)
        if not begins:
            # The form begins at once.
            return constraint
        # Without a budget, thinking leaves half of the room to the answer.
        room = max_tokens // 2
        return replace(
            constraint, thinking_budget=room if budget is None else min(budget, room), begins_thinking=True
        )

    def validate_constraint(self, constraint: OutputConstraint) -> None:
        """Raise when the constraint cannot be compiled."""
        self.constraints.validate(constraint)


def _refused(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(
        f"the model's chat template refuses this conversation: {error}", param="messages"
    )


def _markup(wrapper: TokenizerWrapper, hint: str | None) -> Markup:
    start, end, parse = wrapper.tool_call_start, wrapper.tool_call_end, wrapper.tool_parser
    if hint and parse is None:
        module = _parser_module(hint)
        start, end, parse = module.tool_call_start, module.tool_call_end, module.parse_tool_call
    if not start or end is None:
        start, end, parse = _TOOL_START, _TOOL_END, None
    return Markup(wrapper.think_start, wrapper.think_end, start, end, parse)


@functools.cache
def _parser_module(name: str) -> Any:
    import importlib

    return importlib.import_module(f"{tool_parsers.__name__}.{name}")


def _written(call: ToolCallPart) -> str:
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{_TOOL_START}\n{body}\n{_TOOL_END}"


def _canonical_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sorted(value: Any) -> Any:
    """Sort the keys of objects at every depth; lists keep their order, which may mean something."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fold system text into the first user message and join neighbours of one role, for templates that insist."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    merged: list[dict[str, Any]] = []
    for message in (m for m in messages if m["role"] != "system"):
        role = "user" if message["role"] == "tool" else message["role"]
        if merged and merged[-1]["role"] == role and "tool_calls" not in message:
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append({**message, "role": role})
    if system and merged and merged[0]["role"] == "user":
        merged[0] = {**merged[0], "content": f"{system}\n\n{merged[0]['content']}"}
    elif system:
        merged.insert(0, {"role": "user", "content": system})
    return merged
