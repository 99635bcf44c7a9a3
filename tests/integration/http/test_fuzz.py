"""Seeded random requests over paths, headers, bodies and schemas: refused or answered, never a failure of the server.

20,000 cases: paths, headers and bodies against a whole daemon in this process, with the real engine on a tiny model,
and schemas against the real grammar engine. A failing case is found again by its number, which the message says.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.middleware import RequestContextWrapper
from semanticd.adapters.mlx.constraints.compile import ConstraintCompiler
from semanticd.adapters.mlx.model.weights import load_tokenizer
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint
from tests.fakes.agents_service import FakeAgents
from tests.fakes.asgi_client import Answer
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services
from tests.fakes.telemetry import RecordingLog
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

NUM_PATHS = 6_000
NUM_HEADERS = 5_000
NUM_BODIES = 8_000
NUM_SCHEMAS = 1_000
SLICES = 4
PATIENCE_S = 120.0
"""After which a request that is not answered counts as hung."""

PIECES = [
    "/",
    "//",
    ".",
    "..",
    "%2f",
    "%2F",
    "%5c",
    "%00",
    "%0a",
    "%0d%0a",
    "%c3",
    "%E2%98%83",
    "%25",
    "~",
    ";x=1",
]
PIECES += ["ann", "stats", "import", "x" * 200, "%22", "<script>", "{agent_id}", "*", " ", "\u00e9", "?", "#"]
HEADER_NAMES = ["host", "origin", "authorization", "x-api-key", "x-admin-key", "x-session-id", "x-priority"]
HEADER_NAMES += [
    "x-request-id",
    "traceparent",
    "tracestate",
    "anthropic-version",
    "content-type",
    "content-length",
]
HEADER_NAMES += [
    "content-encoding",
    "sec-fetch-site",
    "access-control-request-headers",
    "accept",
    "if-none-match",
]
HEADER_NAMES += ["range", "expect", "transfer-encoding", "cookie", "x-forwarded-for", "forwarded", "upgrade"]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63,
    -(2**63),
    1e308,
    -0.5,
    "",
    "x",
    "\0",
    "\u2028",
    "\ud83d\ude00",
]
VALUES += [
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"type": "text"},
    {"type": "text", "text": "hi"},
    "~x/y",
    "[INST]",
]
CONTENT = re.compile(r"[\t -~\x80-\xff]*")


def make_app() -> tuple[RequestContextWrapper, RecordingLog]:
    log = RecordingLog()
    agents = FakeAgents("ann")
    app = create_app(
        make_services(ScriptedGenerator(), agents=agents, log=log), HttpConfig(body_timeout_s=0.2)
    )
    return app, log


def templates(app: RequestContextWrapper) -> list[tuple[str, str]]:
    return [(method, route.template) for route, methods in app.router.routes.items() for method in methods]


def random_path(rng: random.Random, template: str) -> str:
    path = re.sub(r"{[^}]*}", lambda _: "".join(rng.choices(PIECES, k=rng.randint(1, 3))), template)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
        at = rng.randint(0, len(path))
        path = path[:at] + rng.choice(PIECES) + path[at:]
    return path or "/"


def random_text(rng: random.Random) -> str:
    length = rng.choice([0, 1, 8, 60, 300])
    return "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(128, 255), 9])) for _ in range(length))


def random_header(rng: random.Random, name: str) -> str:
    known = {
        "host": ["localhost", "localhost:99999", "[::1", "evil.example", "127.0.0.1:x"],
        "origin": ["null", "http://localhost:8000", "https://evil.example", "://"],
        "authorization": ["Bearer", "Bearer k", "Basic eDp5", "Bearer  "],
        "traceparent": ["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-zz", "ff"],
        "content-length": ["0", "5", "99999999999", "-1", "1e3", "\u00b2"],
        "content-encoding": ["gzip", "zstd", "deflate", "br", "gzip, gzip", "identity"],
        "content-type": [
            "application/json",
            "application/json; charset=latin-1",
            "a/b+json",
            "text/plain",
            ";",
        ],
        "x-priority": ["background", "interactive", "now"],
        "x-session-id": ["ann", "stats", "a b", "\u00e9", "x" * 129],
        "sec-fetch-site": ["cross-site", "same-origin", "none"],
    }
    return rng.choice([*known.get(name, []), random_text(rng)])


def random_json(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 5 or kind < 0.55:
        return copy.deepcopy(rng.choice(VALUES))
    if kind < 0.75:
        return [random_json(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {rng.choice(FIELDS): random_json(rng, depth + 1) for _ in range(rng.randint(0, 5))}


FIELDS = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tools",
    "name",
    "parameters",
    "input",
    "prompt",
]
FIELDS += ["stream", "max_tokens", "stop", "logit_bias", "system", "id", "metadata", "ttl", "turns", "schema"]
FIELDS += [
    "input_schema",
    "function",
    "tool_choice",
    "response_format",
    "output_config",
    "format",
    "arguments",
]

MESSAGE = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,AAAA"
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "assistant", "reasoning": "hm", "function_call": CALL["function"]},
        {"role": "tool", "tool_call_id": "c1", "content": "cold"},
        MESSAGE,
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "stream_options": {"include_usage": True},
    "logit_bias": {"5": 1},
}
ITEMS: dict[str, Any] = {
    "model": "tiny",
    "instructions": "s",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": PNG}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "cold"}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"},
        {"type": "local_shell_call", "call_id": "c3", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "fish"}},
        {"type": "compaction", "encrypted_content": "x"},
        MESSAGE,
    ],
    "tools": [
        {"type": "function", **FUNCTION},
        {
            "type": "custom",
            "name": "patch",
            "format": {"type": "grammar", "syntax": "regex", "definition": "a"},
        },
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
        {"type": "web_search"},
    ],
    "text": {
        "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}},
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "truncation": "auto",
    "prompt_cache_options": {"comparison_response_id": "resp_1"},
}
BLOCKS: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "sky"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "cold"}]},
        ]},
        {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]},
        MESSAGE,
    ],
    "tools": [{"name": "look", "input_schema": FUNCTION["parameters"]}, {"type": "bash_20250124", "name": "bash"}],
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "ann"},
    "diagnostics": {"previous_message_id": "msg_1"},
}  # fmt: skip
OLLAMA: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "look", "arguments": {"at": "sky"}}},
        ]},
        {"role": "tool", "tool_name": "look", "content": "cold"},
        {"role": "user", "content": "hi", "images": ["AAAA"]},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "format": {"type": "object"},
    "options": {"num_predict": 5, "stop": ["x"], "temperature": 0},
    "think": True,
    "stream": False,
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "tiny", "max_tokens": 5, "messages": [MESSAGE], "system": "s"},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [MESSAGE]},
    "/v1/chat/completions": {"model": "tiny", "messages": [MESSAGE], "tools": [], "stop": ["x"]},
    "/v1/completions": {"model": "tiny", "prompt": "hi", "n": 1},
    "/v1/responses": {"model": "tiny", "input": [MESSAGE], "store": True, "metadata": {"a": "b"}},
    "/v1/agents": {"id": "ann", "system": "s", "ttl": 5},
    "/v1/agents/ann/generate": {"messages": [MESSAGE], "max_tokens": 3},
    "/v1/agents/ann/fork": {"id": "bob"},
    "/v1/agents/ann/rewind": {"turns": 1},
    "/v1/agents/ann/pin": {"ttl": 5},
    "/admin/models/load": {"model": "tiny"},
    "/admin/models/swap": {"model": "tiny"},
    "/v1/tokenize": CHAT,
    "/v1/responses/input_tokens": ITEMS,
    "/v1/responses/compact": ITEMS,
    "/api/chat": OLLAMA,
    "/api/generate": {
        "model": "tiny",
        "prompt": "hi",
        "system": "s",
        "format": "json",
        "options": {"seed": 1},
    },
    "/api/show": {"model": "tiny"},
}
RICH = (
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", ITEMS),
    ("/v1/messages", BLOCKS),
    ("/v1/messages/count_tokens", BLOCKS),
    (
        "/v1/agents/ann/generate",
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "c1", "name": "look", "arguments": "{}"}]},
                {"role": "tool", "tool_call_id": "c1", "content": "cold", "is_error": False},
                MESSAGE,
            ],
            "format": {"type": "regex", "pattern": "a"},
            "tool_choice": "auto",
        },
    ),
)
"""Conversations with a history of all kinds, besides the small ones."""


def parts_of(body: dict[str, Any]) -> list[Any]:
    """Return all objects and lists in a body, itself first; lists that hold nothing are left out."""
    found: list[Any] = []
    left: list[Any] = [body]
    while left:
        part = left.pop()
        if isinstance(part, dict | list) and (part or part is body):
            found.append(part)
            left += part.values() if isinstance(part, dict) else part
    return found


def random_body(rng: random.Random, good: dict[str, Any]) -> bytes:
    body = json.loads(json.dumps(good))
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        where = rng.choice(parts_of(body))
        if isinstance(where, list):
            where[rng.randrange(len(where))] = random_json(rng)
        else:
            known = where and rng.random() < 0.7
            where[rng.choice(list(where) if known else FIELDS)] = random_json(rng)
    raw = json.dumps(body).encode()
    if rng.random() < 0.1:
        at = rng.randint(0, len(raw))
        raw = raw[:at] + rng.choice([b"\xff", b"\\ud800", b"NaN", b"{", b'"', b"1e999", b""]) + raw[at:]
    return raw


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose answers are short: every token of more than one byte ends them."""
    return write_short_model(tmp_path_factory.mktemp("fuzz") / "tiny")


def write_short_model(folder: Path) -> Path:
    """Write a tiny model that ends most of its answers after a few tokens."""
    write_tiny_model(folder, context=2048)
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = list(range(256, config["vocab_size"]))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@asynccontextmanager
async def daemon_at(home: Path, model: Path) -> AsyncIterator[WholeDaemon]:
    """Run a whole daemon with an agent `ann`; fails where a request failed inside."""
    async with WholeDaemon(home, model=model) as daemon:
        assert (await daemon.client.post("/v1/agents", {"id": "ann"})).status == 201
        yield daemon
    events = {event for _, event, _ in daemon.log.lines}
    assert not {"http_request_failed", "http_stream_failed", "engine_failed", "engine_step_failed"} & events


def is_failure(answer: Answer) -> bool:
    """Whether the server failed; that a tiny model writes no summary is said with 503, and is the model's failure."""
    return answer.status >= 500 and b'"model_error"' not in answer.content


FRAMING = {"content-length", "transfer-encoding", "expect", "upgrade"}
"""Headers that a client's own library sees to."""


def random_request(number: int) -> tuple[str, dict[str, str], bytes]:
    """Return path, headers and body of one POST of a mixture of all kinds: bodies, paths, headers, schemas."""
    rng = random.Random(f"door {number}")
    url, body = rng.choice(list(GOOD.items()))
    headers = {"content-type": "application/json"}
    raw = random_body(rng, body)
    if number % 4 == 1:
        url = random_path(rng, url)
    elif number % 4 == 2:
        name = rng.choice([name for name in HEADER_NAMES if name not in FRAMING])
        headers[name] = random_header(rng, name)
    elif number % 20 == 3:
        url = "/v1/chat/completions"
        form = {"type": "json_schema", "json_schema": {"name": "f", "schema": random_schema(rng)}}
        raw = json.dumps({**GOOD[url], "max_tokens": 8, "response_format": form}).encode()
    return url, headers, raw


@pytest.mark.parametrize("part", range(SLICES))
async def test_no_path_makes_the_server_fail(part: int, tmp_path: Path, model: Path) -> None:
    known = templates(make_app()[0])
    async with daemon_at(tmp_path, model) as daemon:
        for number in range(part, NUM_PATHS, SLICES):
            rng = random.Random(f"path {number}")
            method, template = rng.choice(known)
            path = random_path(rng, template)
            headers = {"content-type": "application/json"}
            answer = await asyncio.wait_for(
                daemon.client.send(method, path, b"{}", headers=headers), PATIENCE_S
            )
            assert not is_failure(answer), (number, method, path, answer.content)


@pytest.mark.parametrize("part", range(SLICES))
async def test_no_header_makes_the_server_fail(part: int, tmp_path: Path, model: Path) -> None:
    known = templates(make_app()[0])
    num_answered = 0
    async with daemon_at(tmp_path, model) as daemon:
        for number in range(part, NUM_HEADERS, SLICES):
            rng = random.Random(f"header {number}")
            method, template = rng.choice(known)
            path = re.sub(r"{[^}]*}", "ann", template)
            names = rng.sample(HEADER_NAMES, rng.randint(1, 4))
            headers = {
                "content-type": "application/json",
                **{name: random_header(rng, name) for name in names},
            }
            body = json.dumps(GOOD.get(path, {})).encode()
            answer = await asyncio.wait_for(
                daemon.client.send(method, path, body, headers=headers), PATIENCE_S
            )
            assert not is_failure(answer), (number, method, path, headers, answer.content)
            num_answered += answer.status == 200
            for name, value in answer.headers.items():
                assert CONTENT.fullmatch(name + value), (number, name, value)
    assert num_answered > NUM_HEADERS / SLICES / 10


@pytest.mark.parametrize("part", range(SLICES))
async def test_no_body_makes_the_server_fail(part: int, tmp_path: Path, model: Path) -> None:
    num_answered = 0
    async with daemon_at(tmp_path, model) as daemon:
        for number in range(part, NUM_BODIES, SLICES):
            rng = random.Random(f"body {number}")
            url, good = rng.choice(RICH if rng.random() < 0.5 else list(GOOD.items()))
            raw = random_body(rng, good)
            answer = await asyncio.wait_for(daemon.client.post(url, raw), PATIENCE_S)
            assert not is_failure(answer), (number, url, raw[:500], answer.content)
            assert b"event: error" not in answer.content or b"api_error" not in answer.content, (
                number,
                url,
                raw[:500],
            )
            num_answered += answer.status == 200
    assert num_answered > NUM_BODIES / SLICES / 10


WORDS = [
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "anyOf",
    "allOf",
    "oneOf",
    "not",
    "if",
    "$ref",
]
WORDS += [
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "multipleOf",
]
WORDS += [
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "propertyNames",
    "prefixItems",
    "$defs",
]
TYPES = ["object", "array", "string", "integer", "number", "boolean", "null", "foo"]
PATTERNS = [
    "a+",
    "^[a-z]{3}$",
    "(a|b)*c",
    ".*",
    "(",
    "[^x]",
    r"\d{4}-\d{2}",
    "(a{0,9}b{0,9}){0,9}",
    r"\p{L}",
    "x{99999}",
]
REFERENCES = ["#", "#/$defs/a", "#/nowhere", "http://x", ""]


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    if depth > 4 or rng.random() < 0.1:
        return rng.choice([True, False, {}, {"type": rng.choice(TYPES)}, None, 5, "string"])
    schema: dict[str, Any] = {"type": rng.choice(TYPES)} if rng.random() < 0.7 else {}
    for word in rng.sample(WORDS, rng.randint(0, 3)):
        schema[word] = _word(rng, word, depth)
    return schema


def _word(rng: random.Random, word: str, depth: int) -> Any:
    if rng.random() < 0.05:
        return copy.deepcopy(rng.choice(VALUES))
    if word in ("properties", "$defs", "patternProperties"):
        return {rng.choice("abc"): random_schema(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    if word in ("anyOf", "allOf", "oneOf", "prefixItems"):
        return [random_schema(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if word in ("items", "not", "if", "additionalProperties", "propertyNames"):
        return random_schema(rng, depth + 1)
    choices = {"pattern": PATTERNS, "$ref": REFERENCES, "type": TYPES, "format": ["date", "email", "x"]}
    if word in choices:
        return rng.choice(choices[word])
    if word in ("enum", "required"):
        return [rng.choice(["a", "b", 1, None]) for _ in range(rng.randint(0, 3))]
    return rng.choice([0, 1, 3, 50, 2.5, 10**6, -1])


def test_no_schema_makes_the_compiler_fail(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_tiny_model(tmp_path_factory.mktemp("fuzz") / "model")
    compiler = ConstraintCompiler(load_tokenizer(folder).backend_tokenizer, vocab_size=512, eos_token_ids=[0])
    num_compiled = 0
    for number in range(NUM_SCHEMAS):
        schema = random_schema(random.Random(f"schema {number}"))
        if not isinstance(schema, dict):
            # A request with no object for its form is refused before; as a part it may be anything.
            schema = {"properties": {"a": schema}}
        constraint = OutputConstraint("json_schema", schema=schema, max_tokens=20)
        try:
            compiler.processor(compiler.compile(constraint), num_context=1)
        except UnsupportedError:
            continue
        except Exception as error:
            raise AssertionError((number, schema)) from error
        num_compiled += 1
    assert num_compiled > NUM_SCHEMAS // 10


def test_the_cases_are_as_many_as_the_page_on_threats_says() -> None:
    assert NUM_PATHS + NUM_HEADERS + NUM_BODIES + NUM_SCHEMAS == 20_000
