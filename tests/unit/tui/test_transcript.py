"""A transcript as people read it: roles out of a chat template, lines that fit, and what came from the cache."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from semantic_tui.state import Said, WatchState
from semantic_tui.transcript import Entry, entries, lines, parsed, wrapped

TEMPLATES = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
    "<|im_start|>assistant\nHo.<|im_end|>\n",
    "llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHo.",
    "gemma": "<bos><start_of_turn>system\nBe brief.<end_of_turn>\n"
    "<start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHo.",
    "phi": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi?<|end|>\n<|assistant|>\nHo.<|end|>",
    "deepseek 2": "Be brief.\n\nUser: Hi?\n\nAssistant: Ho.<｜end▁of▁sentence｜>",
    "mistral": "<s>Be brief.[INST] Hi?[/INST] Ho.</s>",
}


ANSWER = "<|im_end|>\n<|im_start|>assistant\n# Head\n```\nx = 1\n```\nend"


@pytest.mark.parametrize("template", TEMPLATES)
def test_roles_are_found_in_the_templates_of_the_common_families(template: str) -> None:
    found = [(entry.role, entry.text) for entry in parsed(TEMPLATES[template])]
    assert found == [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Ho.")]


def test_text_without_a_template_stays_as_it_is() -> None:
    assert [(entry.role, entry.text) for entry in parsed("once upon a time")] == [
        ("transcript", "once upon a time")
    ]


ASKS = "<|im_start|>user\nHi?<|im_end|>\n"
ASKS_AGAIN = (
    "<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
)


def answering(*, kept: list[dict[str, object]] | None, prompt: bool = True) -> WatchState:
    """Return what is known while an agent's second turn is answered; `kept`: its messages (None: its first turn)."""
    state = WatchState()
    request = {"id": "say-2", "agent": "a", "state": "decoding", "cached_tokens": 4}
    state.take("requests", {"requests": [{"id": "other", "agent": "b", "state": "decoding"}, request]})
    state.take("token", {"agent": "a", "request": "say-2", "text": "So", "num_tokens": 1})
    if kept is not None:
        state.take_details("a", {"turns": [{"reused_hot_tokens": 0}]}, kept)
    if prompt:
        rows = [
            {"role": "transcript", "content": ASKS, "num_tokens": 4},
            {"role": "transcript", "content": ASKS_AGAIN, "num_tokens": 9},
        ]
        state.take_prompt("say-2", {"messages": rows})
    return state


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [{"role": "transcript", "content": ASKS, "num_tokens": 4}],
        [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}],
    ],
    ids=["first turn", "kept by its client", "kept here"],
)
def test_what_is_asked_is_there_while_it_is_answered(kept: list[dict[str, object]] | None) -> None:
    state = answering(kept=kept)
    said = [("user", "Hi?"), ("assistant", "Ho."), ("user", "And now?"), ("assistant", "So")]
    assert [(entry.role, entry.text) for entry in entries(state, "a")] == said
    if kept is None or kept[0]["role"] == "transcript":
        assert [entry.num_cached for entry in entries(state, "a")] == [3, 0, 0, None]
    state.said["a"] = Said("And now?", num_turns_before=1)
    assert [(entry.role, entry.text) for entry in entries(state, "a")] == said, "it is there once"
    state.take("requests", {"requests": []})
    state.said.clear()
    assert ("user", "And now?") not in [(entry.role, entry.text) for entry in entries(state, "a")]


def test_what_a_client_asks_meanwhile_is_no_part_of_what_was_said_here() -> None:
    kept: list[dict[str, object]] = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Ho."},
    ]
    state = answering(kept=kept, prompt=False)
    state.said["a"] = Said("And now?", num_turns_before=1, requests_before=state.requests_heard("a"))
    request = {"id": "req_client", "agent": "a", "state": "decoding"}
    state.take("requests", {"requests": [request, {**request, "id": "say-3"}]})
    state.take_prompt("req_client", {"messages": [{"role": "transcript", "content": ASKS + ASKS_AGAIN}]})
    state.take("token", {"agent": "a", "request": "req_client", "text": "The client's.", "num_tokens": 3})
    said = [("user", "Hi?"), ("assistant", "Ho."), ("user", "And now?")]
    assert [(entry.role, entry.text) for entry in entries(state, "a")] == said
    for text, num_tokens in (("Mi", 1), ("ne", 2)):
        state.take("token", {"agent": "a", "request": "say-3", "text": text, "num_tokens": num_tokens})
        state.take(
            "token", {"agent": "a", "request": "req_client", "text": ".", "num_tokens": 3 + num_tokens}
        )
    assert [(entry.role, entry.text) for entry in entries(state, "a")] == [*said, ("assistant", "Mine")]
    assert state.streams["a"].text == "The client's..."


@pytest.mark.parametrize("width", [12, 30, 60, 77, 120])
@pytest.mark.parametrize("text", ["You are a careful assistant. " * 90, "評" * 400, "short"])
def test_a_closed_message_takes_its_line_and_no_more(text: str, width: int) -> None:
    head = lines([Entry("system", text)], width, open_all=False)[0].text
    assert cell_len(head) <= width
    if width >= 60:
        assert head.endswith(f"{len(text):,} characters (o opens)")


def test_an_older_daemon_and_a_prompt_that_is_not_sent_leave_what_is_kept() -> None:
    kept: list[dict[str, object]] = [{"role": "transcript", "content": ASKS, "num_tokens": 4}]
    for state in (answering(kept=kept, prompt=False), answering(kept=kept, prompt=False)):
        assert [entry.text for entry in entries(state, "a")] == ["Hi?", "So"]
        state.take_prompt("say-2", {})
    state = answering(kept=kept)
    for number in range(20):
        state.take_prompt(f"x{number}", {})
    assert len(state.prompts) < 20


def test_the_cached_part_ends_where_the_last_turns_cached_tokens_end() -> None:
    messages = [
        {"role": "transcript", "content": "<|im_start|>user\none<|im_end|>\n", "num_tokens": 10},
        {"role": "transcript", "content": "<|im_start|>assistant\ntwo<|im_end|>\n", "num_tokens": 10},
    ]
    state = WatchState()
    state.take_details("a", {"turns": [{"reused_hot_tokens": 4, "restored_warm_tokens": 6}]}, messages)
    found = entries(state, "a")
    assert [entry.text for entry in found] == ["one", "two"]
    shown = lines(found, 40, open_all=True)
    assert [line.cached for line in shown if line.text in ("one", "two")] == [True, False]


def test_system_text_is_one_line_until_all_are_open_and_code_is_told_from_text() -> None:
    found = parsed(
        "<|im_start|>system\n"
        + "rule\n" * 50
        + "<|im_end|>\n<|im_start|>assistant\n# Head\n```\nx = 1\n```\nend"
    )
    closed = lines(found, 60, open_all=False)
    assert sum(line.entry == 0 and bool(line.text) for line in closed) == 1
    assert [line.kind for line in closed if line.entry == 1 and line.text] == [
        "role", "heading", "code", "code", "code", "text",
    ]  # fmt: skip
    assert len(lines(found, 60, open_all=True)) > len(closed) + 40


@pytest.mark.parametrize(
    "text", ["short", "many words that do not fit", "模" * 40, "x" * 95, "a  b", "", "\ttab"]
)
def test_wrapped_lines_fit_and_lose_no_letter(text: str) -> None:
    pieces = wrapped(text, 10)
    assert all(sum(2 if ord(c) > 0x2FFF else 1 for c in piece) <= 10 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
