"""Every request that is not answered leaves a trace: which agent, which error, and whose fault it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.services.outcomes import Outcomes
from semanticd.domain.errors import EngineError, QueueFullError, RanksLostError, RequestTooLargeError
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services
from tests.fakes.telemetry import ManualClock

MESSAGE = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
AGENT = {"x-session-id": "coder"}


def served(generator: ScriptedGenerator, **config: Any) -> tuple[AsgiClient, Outcomes]:
    outcomes = Outcomes(clock=ManualClock())
    app = create_app(make_services(generator, outcomes=outcomes), HttpConfig(**config))
    return AsgiClient(app), outcomes


@pytest.mark.parametrize("url", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("the metal broke"), "failed"),
        (RanksLostError("rank 1 was lost"), "failed"),
        (QueueFullError("the queue is full"), "refused"),
        (RequestTooLargeError("it never fits"), "refused"),
    ],
)
async def test_what_the_engine_raises_is_noted_with_agent_and_reason(
    error: Exception, kind: str, stream: bool, url: str
) -> None:
    client, outcomes = served(ScriptedGenerator(["some text", error]))
    await client.post(url, {**MESSAGE, "stream": stream}, headers=AGENT)
    (noted,) = outcomes.recent()
    assert (noted.kind, noted.agent, noted.message) == (kind, "coder", str(error))


async def test_an_answer_is_counted_once() -> None:
    client, outcomes = served(ScriptedGenerator())
    await client.post("/v1/messages", MESSAGE, headers=AGENT)
    await client.post("/v1/messages", {**MESSAGE, "stream": True}, headers=AGENT)
    assert outcomes.facts().num_answered == 2
    assert outcomes.recent() == ()


async def test_a_rate_limited_and_a_malformed_request_are_refusals_of_their_agent() -> None:
    client, outcomes = served(ScriptedGenerator(), rate_limit_per_agent=1)
    for body in (MESSAGE, MESSAGE, {"model": "tiny"}):
        await client.post("/v1/messages", body, headers=AGENT)
    facts = [(one.kind, one.status, one.agent) for one in outcomes.recent()]
    assert facts == [("refused", 400, "coder"), ("refused", 429, "coder")]


async def test_a_path_that_leads_nowhere_is_no_refusal_of_a_request() -> None:
    client, outcomes = served(ScriptedGenerator())
    await client.send("POST", "/elsewhere", json.dumps(MESSAGE).encode())
    assert outcomes.recent() == ()
