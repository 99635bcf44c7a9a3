"""Many prompts in one body, through HTTP and a whole engine: one share of the engine, and all of them or none."""

from __future__ import annotations

import asyncio
import random
import string
import threading
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.generation.places import ReadingPlaces
from semanticd.domain.chat import TextPrompt
from semanticd.domain.errors import QueueFullError
from semanticd.domain.ids import AgentId
from semanticd.domain.sequence import SequenceState
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.engine_rig import PATIENCE_S, wait_until
from tests.fakes.http_services import make_services
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

URL = "/v1/completions"
PER_AGENT, QUEUE = "(SEMANTIC_MLX_MAX_QUEUE_PER_AGENT)", "(SEMANTIC_MLX_MAX_QUEUE)"


def client_of(rig: ServiceRig) -> AsgiClient:
    generator: Any = rig.generate
    return AsgiClient(create_app(make_services(generator, embedder=rig.embedding), HttpConfig()))


def texts(count: int, length: int = 120) -> list[str]:
    made = random.Random(7)
    return ["".join(made.choices(string.ascii_letters, k=length)) for _ in range(count)]


def body_of(prompt: str | list[str], **more: Any) -> dict[str, Any]:
    return {"model": "one", "prompt": prompt, "max_tokens": 1, "temperature": 0, **more}


async def until_unanswered(rig: ServiceRig, count: int) -> None:
    await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == count, f"{count} requests")


@pytest.mark.parametrize("session", [{}, {"x-session-id": "second"}], ids=["unnamed", "named"])
async def test_the_prompts_of_one_unnamed_body_are_one_share(session: dict[str, str]) -> None:
    async with ServiceRig(max_queue=256, max_queue_per_agent=32) as rig:
        client, reached, gate = client_of(rig), threading.Event(), threading.Event()
        chunks: list[bool] = []

        def before(operation: str) -> None:
            if operation != "prefill":
                return
            rig.clock.advance(0.1)
            if len(chunks) == 20:
                reached.set()
                gate.wait(PATIENCE_S)
            second = [live.sequence for live in rig.engine.running() if len(live.sequence.prompt_ids) < 50]
            chunks.append(any(one.state is SequenceState.WAITING for one in second))

        rig.runner.before = before
        with rig.engine_rig.held():
            batch = asyncio.ensure_future(client.post(URL, body_of(texts(200))))
            await until_unanswered(rig, 200)
        await asyncio.to_thread(wait_until, reached.is_set, "the batch's beginning")
        num_before = rig.engine.num_unanswered
        second = asyncio.ensure_future(client.post(URL, body_of("hello"), headers=session))
        await until_unanswered(rig, num_before + 1)
        gate.set()
        assert (await second).status == 200
        answer = await batch
        assert (answer.status, len(answer.json["choices"])) == (200, 200)
        # Those that run already, of two chunks each, and one that may start before.
        assert sum(chunks) <= 2 * (rig.engine_rig.scheduler.limits.max_batch_size + 1)


@pytest.mark.parametrize(
    ("prompts", "more", "session", "setting"),
    [
        (300, {}, {}, f"at most 256 in one body {QUEUE}"),
        (20, {"n": 20}, {}, f"at most 256 in one body {QUEUE}"),
        (100, {}, {"x-session-id": "A"}, f"at most 32 in one body {PER_AGENT}"),
        (100, {"user": "A"}, {}, f"at most 32 in one body {PER_AGENT}"),
        (9, {"n": 4}, {"x-session-id": "A"}, f"at most 32 in one body {PER_AGENT}"),
        (1, {"n": 33}, {}, f"at most 32 choices {PER_AGENT}"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_that_can_never_fit_is_refused_for_good_and_takes_no_place(
    prompts: int, more: dict[str, Any], session: dict[str, str], setting: str, stream: bool
) -> None:
    async with ServiceRig(max_queue=256, max_queue_per_agent=32) as rig:
        client = client_of(rig)
        with rig.engine_rig.held():
            given = body_of(texts(prompts), stream=stream, **more)
            answer = await client.post(URL, given, headers=session)
            assert answer.status == 400
            assert answer.json["error"]["type"] == "invalid_request_error"
            assert setting in answer.json["error"]["message"]
            assert "retry-after" not in answer.headers
            assert rig.engine.num_unanswered == 0
        assert (await client.post(URL, body_of("hello"), headers=session)).status == 200


@pytest.mark.parametrize("session", [{}, {"x-session-id": "A"}], ids=["unnamed", "named"])
async def test_a_body_that_has_no_room_now_takes_no_place_of_others(session: dict[str, str]) -> None:
    async with ServiceRig(max_queue=10, max_queue_per_agent=8) as rig:
        client = client_of(rig)
        with rig.engine_rig.held():
            running = asyncio.ensure_future(client.post(URL, body_of(texts(6)), headers=session))
            await until_unanswered(rig, 6)
            refused = await client.post(URL, body_of(texts(5)), headers=session)
            assert refused.status == 503
            assert refused.json["error"]["code"] == "queue_full"
            assert "retry-after" in refused.headers
            assert rig.engine.num_unanswered == 6
            others = [asyncio.ensure_future(client.post(URL, body_of("hello"))) for _ in range(4)]
            await until_unanswered(rig, 10)
        assert [(await one).status for one in (running, *others)] == [200] * 5


async def test_an_agents_quota_counts_what_runs_before_any_prompt_is_read() -> None:
    async with ServiceRig(max_queue=100, max_queue_per_agent=8) as rig:
        client, session = client_of(rig), {"x-session-id": "A"}
        with rig.engine_rig.held():
            running = asyncio.ensure_future(client.post(URL, body_of(texts(6)), headers=session))
            await until_unanswered(rig, 6)
            refused = await client.post(URL, body_of(texts(3)), headers=session)
            assert refused.status == 503
            assert (
                "agent 'A' has 6 requests running or waiting, and 3 more" in refused.json["error"]["message"]
            )
            assert rig.engine.num_unanswered == 6
        assert (await running).status == 200


async def test_a_body_with_a_prompt_that_is_refused_computes_none_of_them() -> None:
    async with ServiceRig(max_queue=256, context_length=500) as rig:
        client = client_of(rig)
        with rig.engine_rig.held():
            answer = await client.post(URL, body_of([*texts(3), "a" * 600]))
            assert answer.status == 400
        await until_unanswered(rig, 0)
        assert rig.runner.num_prefilled == 0


@pytest.mark.parametrize(("url", "field"), [("/v1/embeddings", "input"), ("/api/embed", "input")])
async def test_texts_to_embed_are_one_request_however_many(url: str, field: str) -> None:
    async with ServiceRig(max_queue=1, max_queue_per_agent=1) as rig:
        answer = await client_of(rig).post(url, {"model": "one", field: texts(40, 10)})
        assert answer.status == 200


async def test_a_body_of_hundreds_of_prompts_leaves_room_for_others() -> None:
    async with ServiceRig(max_queue=256, max_queue_per_agent=32) as rig:
        client = client_of(rig)
        with rig.engine_rig.held():
            batch = asyncio.ensure_future(client.post(URL, body_of(texts(250))))
            await until_unanswered(rig, 250)
            others = [asyncio.ensure_future(client.post(URL, body_of("hello"))) for _ in range(256)]
            await until_unanswered(rig, 250 + 256)
            assert (await client.post(URL, body_of("hello"))).status == 503
        assert {(await one).status for one in others} == {200}
        assert len((await batch).json["choices"]) == 250


@pytest.mark.parametrize("num_answered", [0, 3, 7])
async def test_places_come_back_however_far_a_body_has_come_when_its_client_leaves(num_answered: int) -> None:
    async with ServiceRig(max_queue=10, max_queue_per_agent=4) as rig:
        client, left = client_of(rig), asyncio.Event()
        reached, gate = threading.Event(), threading.Event()

        def before(operation: str) -> None:
            if rig.engine.num_unanswered <= 9 - num_answered:
                reached.set()
                gate.wait(PATIENCE_S)

        with rig.engine_rig.held():
            batch = asyncio.ensure_future(client.post(URL, body_of(texts(9)), leave=left))
            await until_unanswered(rig, 9)
            rig.runner.before = before
        await asyncio.to_thread(wait_until, reached.is_set, "so many answers")
        left.set()
        await batch
        gate.set()
        await until_unanswered(rig, 0)
        with rig.engine_rig.held():
            others = [asyncio.ensure_future(client.post(URL, body_of("hello"))) for _ in range(10)]
            await until_unanswered(rig, 10)
            assert (await client.post(URL, body_of("hello"))).status == 503
        assert {(await one).status for one in others} == {200}


async def test_a_body_is_read_to_its_end_while_first_prompts_finish() -> None:
    async with ServiceRig(max_queue=10, max_queue_per_agent=4, context_length=500) as rig:
        client = client_of(rig)
        for _ in range(3):
            answers = await asyncio.gather(
                client.post(URL, body_of(texts(10, 300))),
                client.post(URL, body_of(texts(10, 200))),
                *(client.post(URL, body_of("hello")) for _ in range(2)),
            )
            assert [answer.status for answer in answers] == [200] * 4
        assert (await client.post(URL, body_of([*texts(9), "a" * 600]))).status == 400
        await until_unanswered(rig, 0)
        assert rig.engine_rig.queue.num_reserved == 0


async def test_places_of_one_agents_bodies_are_told_apart() -> None:
    async with ServiceRig(max_queue=10, max_queue_per_agent=8) as rig:
        queue, ann = rig.engine_rig.queue, AgentId("ann")
        places = ReadingPlaces(queue)
        with places.take(ann, 3) as first:
            with places.take(ann, 5) as second:
                queue.submit(*(rig.engine_rig.submission([1], agent="ann")[1] for _ in range(5)))
                second.used(5)
            assert (queue.num_reserved, first.num_left) == (3, 3)
            with pytest.raises(QueueFullError, match="'ann' has 8 requests"), places.take(ann, 1):
                pass
        assert queue.num_reserved == 0


async def test_a_request_that_is_called_like_an_agent_takes_nothing_of_its_part() -> None:
    async with ServiceRig(max_queue=10, max_queue_per_agent=2) as rig:
        client = client_of(rig)
        with rig.engine_rig.held():
            called, named = [
                asyncio.ensure_future(client.post(URL, body_of("hello", n=2), headers={header: "ann"}))
                for header in ("x-request-id", "x-session-id")
            ]
            await until_unanswered(rig, 4)
        assert [(await one).status for one in (called, named)] == [200, 200]


@pytest.mark.parametrize("n", [1, 2])
async def test_hundreds_of_requests_of_one_client_leave_room_for_agents_and_other_clients(n: int) -> None:
    async with ServiceRig(max_queue=12, max_queue_per_agent=4) as rig:
        client = client_of(rig)
        elsewhere = AsgiClient(client.app, client=("10.0.0.7", 50_000))
        asked = body_of("hello", n=n)
        with rig.engine_rig.held():
            many = [asyncio.ensure_future(client.post(URL, asked)) for _ in range(12 // n)]
            await until_unanswered(rig, 12)
            refused = await client.post(URL, asked)
            assert (refused.status, refused.json["error"]["code"]) == (503, "queue_full")
            others = [
                asyncio.ensure_future(
                    client.post(URL, body_of("hello", n=4), headers={"x-session-id": "ann"})
                ),
                asyncio.ensure_future(elsewhere.post(URL, body_of("hello", n=4))),
            ]
            await until_unanswered(rig, 20)
            assert (await client.post(URL, asked, headers={"x-session-id": "ben"})).status == 503
        assert [(await one).status for one in (*many, *others)] == [200] * (12 // n + 2)
        assert rig.engine_rig.queue.num_reserved == 0


async def test_what_is_only_embedded_leaves_room_for_answers() -> None:
    async with ServiceRig(max_queue=12, max_queue_per_agent=4) as rig:
        client, given = client_of(rig), {"model": "one", "input": "hello"}
        with rig.engine_rig.held():
            asked = [asyncio.ensure_future(client.post("/v1/embeddings", given)) for _ in range(12)]
            await until_unanswered(rig, 12)
            assert (await client.post("/v1/embeddings", given)).status == 503
            answer = asyncio.ensure_future(client.post(URL, body_of("hello")))
            await until_unanswered(rig, 13)
        assert [(await one).status for one in (*asked, answer)] == [200] * 13


class SlowTokenizer(CharTokenizer):
    """Waits before it reads `slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Wait, and read."""
        if text == "slow":
            self.gate.wait(PATIENCE_S)
        return super().encode(text, add_special_tokens=add_special_tokens)


async def test_what_is_only_counted_leaves_room_for_answers() -> None:
    tokenizer = SlowTokenizer()
    async with ServiceRig(tokenizer=tokenizer, max_queue=12, max_queue_per_agent=4) as rig:
        counts = [
            asyncio.ensure_future(rig.generate.count_tokens("one", TextPrompt("slow"))) for _ in range(12)
        ]
        try:
            await asyncio.to_thread(wait_until, lambda: rig.engine_rig.queue.num_reserved == 12, "places")
            with pytest.raises(QueueFullError):
                await rig.generate.count_tokens("one", TextPrompt("slow"))
            assert (await client_of(rig).post(URL, body_of("hello"))).status == 200
        finally:
            tokenizer.gate.set()
        assert await asyncio.gather(*counts) == [4] * 12
