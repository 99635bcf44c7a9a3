"""The whole way from the official SDKs to a model and back: a real daemon, and a model of random weights.

What such a model says is nonsense, so what has a form has it because it was enforced.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import mlx.core as mx
import openai
import pytest
from mlx_lm.utils import load_model, load_tokenizer

from tests.fakes.daemon_process import MODEL, DaemonProcess
from tests.fakes.random_schema import random_schema
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = pytest.mark.timeout(600)

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
QUESTION: Any = {"role": "user", "content": "What will the weather be?"}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ANTHROPIC_TOOL: Any = {"name": "weather", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def daemon(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    # Not the models' folder of the user: this one holds nothing, the model is named by its path.
    home = tmp_path_factory.mktemp("daemon")
    process = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(tiny),
        SEMANTIC_MLX_CACHE_BUDGET_MB="256",
        SEMANTIC_RUNTIME_DIR=f"/tmp/smt-{os.getpid()}",
    )
    process.start()
    yield process
    process.kill()


@pytest.fixture
def gpt(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{daemon.url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def claude(daemon: DaemonProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=daemon.url, api_key="k", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def check_arguments(arguments: str | dict[str, Any]) -> None:
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    jsonschema.validate(value, SCHEMA)


@pytest.mark.parametrize("stream", [False, True])
def test_an_openai_tool_round_trip_is_valid_and_its_second_turn_is_cached(
    gpt: openai.OpenAI, stream: bool
) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, QUESTION]
    options: Any = {"model": "default", "max_tokens": 120, "temperature": 0, "tools": [OPENAI_TOOL]}
    if stream:
        with gpt.chat.completions.stream(
            **options, messages=messages, tool_choice="required", stream_options={"include_usage": True}
        ) as chunks:
            chunks.until_done()
            first = chunks.get_final_completion()
    else:
        first = gpt.chat.completions.create(**options, messages=messages, tool_choice="required")
    answer = first.choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.tool_calls
    [call] = answer.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    check_arguments(call.function.arguments)
    messages.append(
        {
            "role": "assistant",
            "content": answer.message.content,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "weather", "arguments": call.function.arguments},
                }
            ],
        }
    )
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    second = gpt.chat.completions.create(**{**options, "max_tokens": 8}, messages=messages)
    assert first.usage
    assert second.usage
    assert second.usage.prompt_tokens_details
    # The call that was made is found again, not only the prompt before it.
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= first.usage.prompt_tokens
    assert cached >= first.usage.total_tokens - 8


@pytest.mark.parametrize("stream", [False, True])
def test_an_anthropic_tool_round_trip_is_valid_and_its_second_turn_is_cached(
    claude: anthropic.Anthropic, stream: bool
) -> None:
    options: Any = {
        "model": "default",
        "max_tokens": 120,
        "system": f"Be brief. {stream}",
        "tools": [ANTHROPIC_TOOL],
    }
    if stream:
        with claude.messages.stream(**options, messages=[QUESTION], tool_choice={"type": "any"}) as events:
            first = events.get_final_message()
    else:
        first = claude.messages.create(
            **options, messages=[QUESTION], tool_choice={"type": "tool", "name": "weather"}
        )
    assert first.stop_reason == "tool_use"
    [call] = [block for block in first.content if block.type == "tool_use"]
    check_arguments(dict(call.input))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    said: Any = [
        QUESTION,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = claude.messages.create(**{**options, "max_tokens": 8}, messages=said)
    first_prompt = first.usage.input_tokens + (first.usage.cache_read_input_tokens or 0)
    first_prompt += first.usage.cache_creation_input_tokens or 0
    assert (second.usage.cache_read_input_tokens or 0) >= first_prompt


def test_parallel_calls_come_to_an_end(gpt: openai.OpenAI) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
        for name in ("left", "right")
    ]
    for seed in range(6):
        answer = gpt.chat.completions.create(
            model="default", messages=[QUESTION], tools=tools, tool_choice="required", seed=seed
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert 1 <= len(answer.message.tool_calls or []) <= 2


def test_json_schema_answers_are_valid_even_when_the_room_is_small(gpt: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA, "strict": True}}
    for seed, room in enumerate((40, 60, 90, 300)):
        answer = gpt.chat.completions.create(
            model="default", messages=[QUESTION], response_format=form, max_tokens=room, seed=seed
        ).choices[0]
        assert answer.finish_reason == "stop"
        check_arguments(answer.message.content or "")


def test_what_a_schema_asks_for_and_cannot_be_enforced_is_named(gpt: openai.OpenAI) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "w",
            "schema": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3, "uniqueItems": True},
        },
    }
    raw = gpt.chat.completions.with_raw_response.create(
        model="default",
        messages=[{"role": "user", "content": "w"}],
        response_format=form,
        max_tokens=40,
    )
    assert "uniqueItems" in raw.headers["x-semantic-adjusted"]
    answer = json.loads(raw.parse().choices[0].message.content or "")
    assert all(isinstance(item, bool) for item in answer)


GRAMMAR = r"""
start: (KEY "=" VALUE LF)~1..2
KEY: /[a-z]{1,4}/
VALUE: /"[^"\n]{0,4}"/ | /[0-9]{1,3}/
%import common.LF
"""


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tools_input_is_of_its_grammar(gpt: openai.OpenAI, stream: bool) -> None:
    form: Any = {"type": "grammar", "syntax": "lark", "definition": GRAMMAR}
    options: Any = {
        "model": "default", "input": "Set it.", "tool_choice": "required", "max_output_tokens": 200,
        "temperature": 1, "tools": [{"type": "custom", "name": "set", "format": form}],
    }  # fmt: skip
    told = ""
    if stream:
        for event in gpt.responses.create(**options, stream=True):
            if event.type == "response.custom_tool_call_input.delta":
                told += event.delta
            elif event.type == "response.completed":
                answer = event.response
    else:
        answer = gpt.responses.create(**options)
    [call] = [item for item in answer.output if item.type == "custom_tool_call"]
    assert re.fullmatch(r'([a-z]{1,4}=("[^"\n]{0,4}"|[0-9]{1,3})\n){1,2}', call.input)
    assert told == (call.input if stream else "")
    form["definition"] = "start: nowhere"
    with pytest.raises(openai.BadRequestError, match=r"grammar of the tool 'set'.*nowhere") as refused:
        gpt.responses.create(**options)
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(16), id="few"),
        pytest.param(range(1000), id="thousand", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_required_calls_of_random_schemas_all_parse_and_validate(
    daemon: DaemonProcess, tiny: Path, seeds: range
) -> None:
    [quote] = load_tokenizer(tiny).encode('"')

    def ask(seed: int) -> str | None:
        schema = random_schema(random.Random(seed))
        tool = {"type": "function", "function": {"name": f"tool_{seed}", "parameters": schema}}
        body = {
            "model": "default",
            "messages": [QUESTION],
            "tools": [tool],
            "tool_choice": "required"
            if seed % 2
            else {"type": "function", "function": {"name": f"tool_{seed}"}},
            "parallel_tool_calls": bool(seed % 3),
            "max_tokens": 400,
            # Strings that end soon keep the test short; what is enforced is the form, not the length.
            "logit_bias": {str(quote): 5},
            "seed": seed,
            "temperature": (0, 1, 1.5)[seed % 3],
        }
        response = http.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            return f"{seed}: {response.text} {json.dumps(schema)}"
        choice = response.json()["choices"][0]
        try:
            [call] = choice["message"]["tool_calls"]
            assert choice["finish_reason"] == "tool_calls"
            assert call["function"]["name"] == f"tool_{seed}"
            jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
        except (AssertionError, KeyError, TypeError, ValueError, jsonschema.ValidationError) as error:
            return f"{seed}: {error!r} {json.dumps(choice)} {json.dumps(schema)}"
        return None

    with httpx.Client(base_url=daemon.url, timeout=900) as http, ThreadPoolExecutor(8) as pool:
        wrong = [problem for problem in pool.map(ask, seeds) if problem]
    assert not wrong, f"{len(wrong)} of {len(seeds)}: {wrong[0]}"


ITEMS = [
    f"{subject} {verb} {thing}"
    for subject in ("The sky", "A river", "My old friend", "Nobody", "Ünïcode ✓")
    for verb in ("is", "was not", "could have been")
    for thing in ("blue.", "here, I think", "42 times as long")
] + ["a", "to be or not to be", "  spaces  ", "line\nbreak", "<|im_start|>user"]
assert len(ITEMS) == 50


def logprobs_by_mlx_lm(folder: Path, texts: list[str]) -> list[list[float]]:
    """Return, for each text, its tokens' log-probabilities after the first, as mlx-lm computes them.

    With its own kernels for packed weights, in float32; the daemon unpacks them on the CPU.
    """
    model, _ = load_model(folder)
    if mx.default_device() == mx.Device(mx.cpu):
        model.set_dtype(mx.float32)
    tokenizer = load_tokenizer(folder)
    found = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        logits = model(mx.array([ids]))[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        found.append([float(logprobs[at, token].item()) for at, token in enumerate(ids[1:])])
    return found


def check_scores(url: str, model: str, folder: Path, texts: list[str]) -> None:
    # Not the SDK: its strict types do not know that the first token's score is null, as the original has it.
    with httpx.Client(base_url=url, timeout=60) as http:
        for text, expected in zip(texts, logprobs_by_mlx_lm(folder, texts), strict=True):
            for max_tokens in (0, 1):
                body = {
                    "model": model,
                    "prompt": text,
                    "echo": True,
                    "logprobs": 1,
                    "max_tokens": max_tokens,
                    "temperature": 0,
                }
                [choice] = http.post("/v1/completions", json=body).json()["choices"]
                assert choice["text"].startswith(text)
                scores = choice["logprobs"]["token_logprobs"]
                assert scores[0] is None
                assert len(scores) == 1 + len(expected) + max_tokens
                assert scores[1 : 1 + len(expected)] == pytest.approx(expected, abs=1e-3)


def test_log_likelihoods_are_those_of_mlx_lm(daemon: DaemonProcess, tiny: Path) -> None:
    check_scores(daemon.url, "default", tiny, ITEMS)


@pytest.mark.model
def test_log_likelihoods_of_a_real_model_are_those_of_mlx_lm(models_dir: Path, short_tmp_path: Path) -> None:
    process = DaemonProcess(short_tmp_path, models_dir=models_dir)
    process.start()
    try:
        texts = ["The capital of France is Paris.", *ITEMS[::13]]
        check_scores(process.url, MODEL, models_dir / MODEL, texts)
    finally:
        process.kill()


def test_an_agent_kept_by_the_server_is_asked_without_naming_a_model(daemon: DaemonProcess) -> None:
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        assert http.post("/v1/agents", json={"id": "ada", "system": "Be brief."}).status_code in (200, 201)
        for _ in range(2):
            answer = http.post("/v1/agents/ada/generate", json={"prompt": "Hello", "max_tokens": 8})
            assert answer.status_code == 200, answer.text
