"""What peers may read over HTTP: the files of blocks whose tokens they know, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from semanticd import __version__
from semanticd.adapters.disk.blocks.codec import decode
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.application.services.shared_blocks import SharedBlocks, SharedTree
from semanticd.domain.block import Block, root_hash
from semanticd.domain.block_tree import NamedTree
from semanticd.domain.ids import BlockHash, ModelId
from semanticd.domain.limits import LIMITS
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.blocks import FINGERPRINT, LAYOUT, make_record
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services
from tests.fakes.warm_store import MemoryWarmStore

SIZE = 4
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def chain(*, salt: str = "", tokens: Sequence[int] = TOKENS) -> list[BlockRecord]:
    """Return the blocks of `TOKENS`: two full ones and a tail."""
    parent, records = root_hash(FINGERPRINT, LAYOUT, salt=salt), []
    for start in range(0, len(tokens), SIZE):
        record = make_record(tuple(tokens[start : start + SIZE]), parent=parent)
        parent = record.block.block_hash
        records.append(record)
    return records


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskWarmStore]:
    made = DiskWarmStore.open(tmp_path / "caches")
    made.write(chain()).result(60)
    yield made
    made.close()


def client_of(store: Any, *, client: tuple[str, int] | None = None, **config: Any) -> AsgiClient:
    shared = store if isinstance(store, SharedBlocks) else SharedBlocks(store)
    return AsgiClient(create_app(make_services(ScriptedGenerator(), shared=shared), HttpConfig(**config)))


def packed(tokens: Sequence[int]) -> str:
    return base64.b64encode(struct.pack(f"<{len(tokens)}i", *tokens)).decode()


async def look_up(client: AsgiClient, known: Sequence[int] = TOKENS, **more: Any) -> Answer:
    body = {
        "fingerprint": FINGERPRINT,
        "layout": LAYOUT,
        "block_tokens": SIZE,
        "cuts_anywhere": True,
        "tokens": packed(known),
        **more,
    }
    return await client.post("/v1/blocks/lookup", body)


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.content
    return [block["name"] for block in answer.json["blocks"]]


async def test_a_peer_is_told_which_models_are_computed_how(store: DiskWarmStore) -> None:
    trees = [SharedTree(ModelId("m"), FINGERPRINT, LAYOUT)]
    answer = await client_of(SharedBlocks(store, trees=lambda: trees)).get("/v1/blocks")
    identity = {
        "version": __version__,
        "trees": [{"model": "m", "fingerprint": FINGERPRINT, "layout": LAYOUT}],
    }
    assert (answer.status, answer.json) == (200, identity)
    closed = client_of(store, api_keys=("k",))
    assert (await closed.get("/v1/blocks")).status == 401


async def test_a_prompts_blocks_are_named_and_their_files_are_what_is_on_the_disk(
    store: DiskWarmStore,
) -> None:
    client = client_of(store)
    answer = await look_up(client, [*TOKENS, 11])
    records = chain()
    assert names(answer) == [record.block.block_hash.hex() for record in records]
    assert [block["tokens"] for block in answer.json["blocks"]] == [4, 4, 2]
    for record in records:
        name = record.block.block_hash
        file = await client.get(f"/v1/blocks/{name.hex()}")
        assert file.status == 200
        assert file.headers["content-type"] == "application/octet-stream"
        assert decode(file.content, expected=name).block == record.block


async def test_who_does_not_know_the_tokens_learns_no_name(store: DiskWarmStore) -> None:
    client = client_of(store)
    assert len(names(await look_up(client, TOKENS[:8]))) == 2, "the tail's tokens were not sent"
    assert len(names(await look_up(client, [1, 2, 3, 4, 5, 6, 7, 9]))) == 1
    assert names(await look_up(client, [2, 2, 3, 4])) == []
    assert names(await look_up(client, layout="other")) == []
    assert names(await look_up(client, fingerprint="cd" * 32)) == []


async def test_blocks_below_a_private_root_are_found_by_nobody(store: DiskWarmStore) -> None:
    tokens = (31, 32, 33, 34)
    store.write(chain(salt="secret", tokens=tokens)).result(60)
    assert names(await look_up(client_of(store), tokens)) == []


async def test_what_is_about_to_be_deleted_is_shown_to_nobody(store: DiskWarmStore) -> None:
    client = client_of(store)
    last = chain()[-1].block.block_hash
    held = asyncio.Event()
    busy = asyncio.get_running_loop()
    # The disk is busy: the deletion is queued and not done.
    store.write_queue.put(lambda: asyncio.run_coroutine_threadsafe(held.wait(), busy).result(60) and None)
    freed = store.delete([last])
    try:
        assert not freed.done()
        assert len(names(await look_up(client))) == 2
        assert (await client.get(f"/v1/blocks/{last.hex()}")).status == 404
    finally:
        held.set()
    await asyncio.wrap_future(freed)


async def test_a_broken_file_is_not_shown_and_is_set_aside(store: DiskWarmStore) -> None:
    name = chain()[0].block.block_hash
    path = store.folder.block_path(FINGERPRINT, name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    answer = await client_of(store).get(f"/v1/blocks/{name.hex()}")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    assert store.stats().num_quarantined == 1


@pytest.mark.parametrize("name", ["x", "ab" * 31, "AB" * 32, "zz" * 32, "ab" * 33])
async def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    answer = await client_of(MemoryWarmStore()).get(f"/v1/blocks/{name}")
    assert (answer.status, answer.json["error"]["param"]) == (400, "block_hash")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tokens": "§"}, "tokens"),
        ({"tokens": "QUI="}, "tokens"),
        ({"tokens": 3}, "tokens"),
        ({"tokens": packed([0] * (LIMITS.peer_tokens + 1))}, "tokens"),
        ({"block_tokens": 0}, "block_tokens"),
        ({"block_tokens": 10**9}, "block_tokens"),
        ({"layout": ""}, "layout"),
        ({"fingerprint": "a" * 300}, "fingerprint"),
        ({"cuts_anywhere": "perhaps"}, "cuts_anywhere"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_malformed_question_is_refused_by_its_field(more: dict[str, Any], param: str) -> None:
    answer = await look_up(client_of(MemoryWarmStore()), **more)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_a_few_are_answered_at_a_time_and_others_are_told_to_come_again(store: DiskWarmStore) -> None:
    shared = SharedBlocks(store, max_at_once=1, wait_s=0.05)
    client = client_of(shared)
    release = await shared.take_place()
    name = chain()[0].block.block_hash.hex()
    answer = await client.get(f"/v1/blocks/{name}")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert names(await look_up(client)), "a question does not wait for files that go over a slow link"
    release()
    # Each answer gives its place back, whatever it was.
    assert (await client.get(f"/v1/blocks/{name}")).status == 200
    assert (await client.get(f"/v1/blocks/{'ab' * 32}")).status == 404
    assert (await look_up(client, tokens="§")).status == 400
    assert names(await look_up(client))


async def test_askers_that_hang_up_take_no_more_threads_than_those_that_wait(store: DiskWarmStore) -> None:
    held, num_working = threading.Event(), []

    class Slow:
        children = store.children

        def get(self, name: BlockHash) -> Block | None:
            num_working.append(threading.current_thread().name)
            held.wait(60)
            return None

        def read_file(self, name: BlockHash) -> bytes | None:
            self.get(name)
            return None

    shared = SharedBlocks(Slow(), max_at_once=2, wait_s=0.05)
    tree = NamedTree(FINGERPRINT, LAYOUT, SIZE, cuts_anywhere=True)
    try:
        for _ in range(6):
            release = await shared.take_place()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(shared.file(BlockHash(b"x" * 32)), 0.02)
            release()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(shared.look_up(tree, TOKENS), 0.02)
        assert len(num_working) <= 4
    finally:
        held.set()


async def test_without_a_key_only_this_machine_reads_blocks() -> None:
    path = f"/v1/blocks/{'ab' * 32}"
    assert (await client_of(MemoryWarmStore()).get(path)).status == 404
    refused = await client_of(MemoryWarmStore(), is_loopback=False).get(path)
    assert (refused.status, "SEMANTIC_API_KEY" in refused.json["error"]["message"]) == (403, True)
    keyed = client_of(MemoryWarmStore(), is_loopback=False, api_keys=("k",))
    assert (await keyed.get(path)).status == 401
    assert (await keyed.get(path, headers={"x-api-key": "k"})).status == 404


async def test_blocks_do_not_count_against_the_rate_limit(store: DiskWarmStore) -> None:
    client = client_of(store, rate_limit_global=1)
    assert [(await look_up(client)).status for _ in range(5)] == [200] * 5


async def test_where_a_prompts_tokens_lie_is_told_in_each_form() -> None:
    client = client_of(MemoryWarmStore())
    expected = {"prompt_tokens": 3, "hot_tokens": 2, "warm_tokens": 0, "peer_tokens": 0, "missing_tokens": 1}
    text = await client.post("/v1/prefix/lookup", {"model": "tiny", "prompt": "a b c"})
    assert (text.status, text.json) == (200, expected)
    messages = [{"role": "user", "content": "a b c"}]
    assert (await client.post("/v1/prefix/lookup", {"messages": messages})).json == expected
    for path, body in (
        ("/v1/chat/completions", {"model": "tiny", "messages": messages}),
        ("/v1/messages", {"model": "tiny", "messages": messages, "max_tokens": 5}),
        ("/v1/responses", {"model": "tiny", "input": "a b c"}),
    ):
        answer = await client.post(f"/v1/prefix/lookup?path={path}", body)
        assert answer.status == 200, answer.content
        assert answer.json["prompt_tokens"] == answer.json["hot_tokens"] + 1
    for body, param in (({}, "prompt"), ({"prompt": "a", "messages": messages}, "messages")):
        refused = await client.post("/v1/prefix/lookup", body)
        assert (refused.status, refused.json["error"]["param"]) == (400, param)
    assert (await client.post("/v1/prefix/lookup?path=/x", {})).json["error"]["param"] == "path"
    assert (await client.post("/v1/prefix/lookup", {"model": "none", "prompt": "a"})).status == 404
