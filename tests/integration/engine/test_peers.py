"""The engine with a peer: what it has is not computed again, and whatever it does costs a recompute, nothing more.

The runner's answers depend on every token before them, so a wrong block would give a wrong answer.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, get_args

import pytest

from semanticd.adapters.disk.blocks.codec import decode_foreign
from semanticd.adapters.peers.http_peers import HttpPeers
from semanticd.application.engine.peer_lookup import ANSWER_DEADLINE_S, question_about
from semanticd.application.ports.peers import PeerQuestion
from semanticd.domain.block_tree import OfferedBlock
from semanticd.domain.decode_groups import GROWTH_TOKENS
from semanticd.domain.generation import CacheMiss
from semanticd.domain.ids import AgentId, BlockHash, SequenceId
from semanticd.domain.limits import LIMITS
from tests.fakes.engine_rig import Answer, EngineRig, wait_until
from tests.fakes.model_runner import HashRunner
from tests.fakes.peer_server import PeerServer, Vice
from tests.fakes.telemetry import ManualClock, RecordingLog, RecordingMetrics
from tests.fakes.warm_store import MemoryWarmStore

PROMPT = [(7 * n + n // 13) % 50 + 2 for n in range(150)]
"""Nine blocks of 16 tokens, and six tokens more."""
KINDS = pytest.mark.parametrize("has_state", [False, True], ids=["plain", "recurrent"])


def told(has_state: bool) -> tuple[MemoryWarmStore, list[int], str]:
    """Return what a first turn leaves on the disk of one machine, the next prompt, and its answer there."""
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        first = rig.ask(PROMPT, agent="ada", snapshot_points=(len(PROMPT),)).answer()
        prompt = [*PROMPT, *rig.tokenizer.encode(first.text), 3, 4, 5]
        rig.idle()
        store = MemoryWarmStore()
        store.write([record for name in rig.warm.stored() if (record := rig.warm.read(name).result())])
    with EngineRig(runner=HashRunner(has_state=has_state)) as cold:
        return store, prompt, cold.ask(prompt, agent="ada").answer().text


COUNTED = (
    "peer_lookups_total",
    "peer_found_blocks_total",
    "peer_read_blocks_total",
    "peer_read_bytes_total",
)


@contextmanager
def asking(peer: PeerServer | None, *, has_state: bool = False, **more: Any) -> Iterator[EngineRig]:
    """Run an engine on another machine, whose only peer is this one; its disk is empty."""
    options: dict[str, Any] = {"look_up_s": 60.0, "read_s": 60.0, "key": None}
    options |= {name: more.pop(name) for name in ("look_up_s", "read_s", "key") if name in more}
    urls = more.pop("urls", None) or [peer.url if peer else ""]
    metrics, log = RecordingMetrics(), RecordingLog()
    peers = HttpPeers(urls, decode=decode_foreign, metrics=metrics, log=log, **options)
    runner = more.pop("runner", None) or HashRunner(has_state=has_state)
    try:
        with EngineRig(runner=runner, peers=peers, **more) as rig:
            rig.peers = peers  # type: ignore[attr-defined]
            rig.peer_log = log  # type: ignore[attr-defined]
            rig.peer_counters = metrics.counters  # type: ignore[attr-defined]
            yield rig
    finally:
        peers.close()


def cost(answer: Answer) -> tuple[int, int]:
    return answer.cache.restored_warm_tokens, answer.cache.computed_tokens


@KINDS
def test_what_a_peer_has_is_not_computed_again_and_is_kept_here(has_state: bool) -> None:
    store, prompt, text = told(has_state)
    with PeerServer(store) as peer, asking(peer, has_state=has_state) as rig:
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert cost(answer)[0] >= len(PROMPT)
        assert answer.cache.miss is None
        rig.idle()
        kept = set(rig.warm.stored())
        assert peer.num_look_ups == 1
        counted = dict(rig.peer_counters)  # type: ignore[attr-defined]
        assert all(counted[name, peer.url] > 0 for name in COUNTED), counted
    with EngineRig(runner=HashRunner(has_state=has_state), warm=rig.warm) as later:
        again = later.ask(prompt, agent="ada").answer()
        assert again.text == text
        assert again.cache.restored_warm_tokens >= answer.cache.restored_warm_tokens
    assert len(kept) > len(PROMPT) // 16


@KINDS
@pytest.mark.parametrize("vice", get_args(Vice))
def test_a_peer_that_fails_costs_a_recompute_and_is_named(vice: Vice, has_state: bool) -> None:
    store, prompt, text = told(has_state)
    with PeerServer(store) as peer, asking(peer, has_state=has_state, read_s=0.3) as rig:
        peer.vice = vice
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert cost(answer) == (0, len(prompt))
        assert answer.cache.miss == CacheMiss(0, "peer_failed", "", answer.cache.miss.found)  # type: ignore[union-attr]
        (facts,) = rig.peers.facts()  # type: ignore[attr-defined]
        assert facts.num_failures > 0
        names = {name for name, *_ in rig.peer_counters}  # type: ignore[attr-defined]
        assert "peer_failures_total" in names
        assert facts.state == "resting"
        # It is left alone: the next prompt does not even ask.
        asked = peer.num_look_ups
        rig.ask([9, *prompt], agent="eve").answer()
        assert peer.num_look_ups == asked


@KINDS
@pytest.mark.parametrize("vice", ["hangs", "dies", "lies"])
def test_a_peer_that_fails_in_the_middle_of_a_conversation_loses_what_follows_only(
    vice: Vice, has_state: bool
) -> None:
    store, prompt, text = told(has_state)
    with PeerServer(store) as peer, asking(peer, has_state=has_state, read_s=0.3) as rig:
        peer.vice, peer.vice_of = vice, lambda number: number >= 3
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        # How much came before it is the threads' affair, as with blocks of the disk.
        assert answer.cache.computed_tokens > len(prompt) - len(PROMPT)
        assert answer.cache.miss is not None
        assert answer.cache.miss.cause == "peer_failed"


@pytest.mark.parametrize(
    "said",
    [
        (200, b"<html>"),
        (200, b'{"blocks": 3}'),
        (200, b'{"blocks": [{"name": "xx", "parent": "", "tokens": 1}]}'),
        (200, b"[" * 100_000),
        (
            200,
            b'{"blocks": ['
            + b'{"name": "%s", "parent": "%s", "tokens": 16},' % (b"a" * 64, b"b" * 64) * 3
            + b"]}",
        ),
        (200, b"\xff\xfe"),
        (204, b""),
        (302, b""),
        (404, b"{}"),
        (500, b"{}"),
        (503, b"{}"),
    ],
    ids=str,
)
def test_a_nonsensical_answer_is_as_good_as_none(said: tuple[int, bytes]) -> None:
    store, prompt, text = told(has_state=False)
    with PeerServer(store) as peer, asking(peer) as rig:
        peer.look_up_answer = lambda: said
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert cost(answer) == (0, len(prompt))
        assert peer.num_reads == 0


def test_names_that_are_not_the_prompts_are_not_asked_for() -> None:
    store, prompt, text = told(has_state=False)
    with PeerServer(store) as peer, asking(peer) as rig:
        root = rig.runner.spec.root.hex()
        blocks = ",".join(f'{{"name": "{n:064x}", "parent": "{root}", "tokens": 16}}' for n in range(500))
        peer.look_up_answer = lambda: (200, f'{{"blocks": [{blocks}]}}'.encode())
        assert rig.ask(prompt, agent="ada").answer().text == text
        assert peer.num_reads == 0


def test_a_question_that_is_not_answered_holds_up_its_own_prompt_only_and_not_for_long() -> None:
    store, prompt, text = told(has_state=False)
    with PeerServer(store) as peer, asking(peer, look_up_s=1.5) as rig:
        peer.look_up_hangs = True
        began = time.monotonic()
        waiting = rig.ask(prompt, agent="ada")
        wait_until(lambda: peer.num_look_ups == 1)
        rig.ask([5, 6, 7], agent="eve").answer()
        assert not waiting.started, "a short prompt went past it"
        assert waiting.answer().text == text
        assert time.monotonic() - began < 10


def test_a_request_that_is_cancelled_while_a_peer_hangs_ends_at_once() -> None:
    store, prompt, _ = told(has_state=False)
    with PeerServer(store) as peer, asking(peer) as rig:
        peer.vice = "hangs"
        one = rig.ask(prompt, agent="ada")
        wait_until(lambda: peer.num_reads > 0)
        rig.engine.cancel(one.request_id)
        one.wait()
        rig.ask([5, 6, 7], agent="eve").answer()


def test_a_key_is_sent_and_a_wrong_one_is_named() -> None:
    store, prompt, text = told(has_state=False)
    with PeerServer(store, key="secret") as peer:
        with asking(peer, key="secret") as rig:
            assert cost(rig.ask(prompt, agent="ada").answer())[0] >= len(PROMPT)
        with asking(peer, key="other") as rig:
            answer = rig.ask(prompt, agent="ada").answer()
            assert answer.text == text
            assert cost(answer) == (0, len(prompt))
            (facts,) = rig.peers.facts()  # type: ignore[attr-defined]
            assert "401" in str(facts.last_failure)
            assert "SEMANTIC_PEER_KEY" in str(facts.last_failure)
            assert "secret" not in repr(rig.peer_log.lines)  # type: ignore[attr-defined]


def test_another_peer_brings_what_the_first_one_did_not() -> None:
    store, prompt, text = told(has_state=False)
    with PeerServer(store) as liar, PeerServer(store) as honest:
        liar.vice = "lies"
        with asking(None, urls=[liar.url, honest.url]) as rig:
            answer = rig.ask(prompt, agent="ada").answer()
            assert answer.text == text
            assert cost(answer)[0] >= len(PROMPT)


def test_a_peer_that_is_not_there_costs_nothing_but_the_question() -> None:
    _, prompt, text = told(has_state=False)
    urls = ["http://127.0.0.1:9", "http://does-not-exist.invalid:8000"]
    with asking(None, urls=urls, look_up_s=5.0) as rig:
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert {facts.state for facts in rig.peers.facts()} == {"resting"}  # type: ignore[attr-defined]


@contextmanager
def a_resolver_that_hangs(
    monkeypatch: pytest.MonkeyPatch, *, until: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Inside, no name is found or refused before that; addresses are no names."""
    gate = threading.Event()
    look_up = socket.getaddrinfo

    def slowly(host: str, *args: Any, **more: Any) -> Any:
        if host.endswith(".invalid"):
            while not gate.is_set() and not until():
                gate.wait(0.005)
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    try:
        yield
    finally:
        gate.set()


NAMES = [f"http://mac-{number}.invalid:8000" for number in range(LIMITS.peers - 1)]


def test_names_that_are_looked_up_for_long_hold_up_no_other_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    store, prompt, text = told(has_state=False)
    with (
        PeerServer(store) as peer,
        asking(None, urls=[*NAMES, peer.url]) as rig,
        a_resolver_that_hangs(monkeypatch, until=lambda: peer.num_look_ups > 0),
    ):
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert cost(answer)[0] >= len(PROMPT)


def test_the_end_waits_for_no_name_that_is_being_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_resolver_that_hangs(monkeypatch):
        peers = HttpPeers(
            NAMES, key=None, decode=decode_foreign, metrics=RecordingMetrics(), log=RecordingLog()
        )
        spec = HashRunner().spec
        assert peers.look_up(question_about(tuple(PROMPT), spec)).result(60) == ()
        end = threading.Thread(target=peers.close)
        end.start()
        end.join(60)
        assert not end.is_alive()


def test_a_link_that_was_slow_is_not_used_where_computing_is_quicker() -> None:
    store, prompt, text = told(has_state=False)
    clock = ManualClock()
    runner = HashRunner(clock=clock, prefill_token_s=0.001)
    with PeerServer(store) as peer, asking(peer, clock=clock, runner=runner) as rig:
        # The speed of computing is known from here on.
        rig.ask(PROMPT[1:100], agent="eve").answer()
        forgiven: list[bool] = []
        rig.peers.expected_s = lambda blocks: 1000.0  # type: ignore[attr-defined]
        rig.peers.forgive = lambda: forgiven.append(True)  # type: ignore[attr-defined]
        answer = rig.ask(prompt, agent="ada").answer()
        assert answer.text == text
        assert cost(answer) == (0, len(prompt))
        assert peer.num_reads == 0
        assert forgiven == [True]
        assert answer.cache.miss is not None
        assert answer.cache.miss.cause == "first_request"


def test_a_slow_peer_is_no_reason_to_compute_what_another_brings() -> None:
    store, prompt, _ = told(has_state=False)
    names = store.stored()
    with PeerServer(store) as slow, PeerServer(store) as other:
        peers = HttpPeers(
            [slow.url, other.url], key=None, decode=decode_foreign,
            metrics=RecordingMetrics(), log=RecordingLog(), look_up_s=60.0, read_s=60.0,
        )  # fmt: skip
        try:
            offers = peers.look_up(question_about(tuple(prompt), HashRunner().spec)).result(60)
            assert peers.read(offers[0].name).result(60) is not None
            assert (slow.num_reads, other.num_reads) == (1, 0)
            # The other one, which was not measured, is asked first from here on.
            blocks = [block for name in names if (block := store.get(name)) and peers.holds(name)]
            assert len(blocks) == len(offers)
            assert peers.expected_s(blocks) == 0.0
            assert peers.read(offers[1].name).result(60) is not None
            assert (slow.num_reads, other.num_reads) == (1, 1)
            assert peers.expected_s(blocks) > 0.0
        finally:
            peers.close()


def test_nothing_is_asked_for_the_blocks_of_an_agent_with_a_private_root() -> None:
    store, prompt, _ = told(has_state=False)
    with PeerServer(store) as peer, asking(peer) as rig:
        root = rig.runner.spec.root_of("secret")
        rig.ask(prompt, agent="ada", salt="secret", root=root).answer()
        assert peer.num_look_ups == 0


def test_a_short_prompt_and_one_that_is_known_here_are_not_asked_about() -> None:
    store, prompt, _ = told(has_state=False)
    with PeerServer(store) as peer, asking(peer) as rig:
        rig.ask(prompt[:16], agent="eve").answer()
        assert peer.num_look_ups == 0
        rig.ask(prompt, agent="ada").answer()
        rig.ask([*prompt, 4], agent="ada").answer()
        assert peer.num_look_ups == 1


def test_a_conversation_of_budget_size_streams_from_a_peer() -> None:
    store, prompt, text = told(has_state=False)
    spec = HashRunner().spec
    budget = GROWTH_TOKENS * spec.running_bytes_per_token + spec.stored_bytes(64)
    with PeerServer(store) as peer, asking(peer, budget_bytes=budget) as rig:
        answer = rig.ask(prompt, agent="ada", max_tokens=1).answer()
        assert text.startswith(answer.text)
        assert peer.num_reads > 4
        rig.idle()
        table = rig.agents.find(AgentId("ada")).block_table  # type: ignore[union-attr]
        wait_until(lambda: all(rig.warm.get(name) for name in table[:9]), "writing what was streamed")


def test_the_engine_and_other_requests_go_on_while_blocks_come() -> None:
    store, prompt, text = told(has_state=False)
    gate = threading.Event()
    with PeerServer(store) as peer, asking(peer, read_s=60.0) as rig:
        read_file = peer.read_file

        def slowly(name: BlockHash) -> bytes | None:
            gate.wait(60)
            return read_file(name)

        peer.read_file = slowly  # type: ignore[method-assign]
        moved = rig.ask(prompt, agent="ada")
        wait_until(lambda: peer.num_reads > 0)
        for number in range(3):
            rig.ask([5, 6, number + 7], agent=f"agent-{number}").answer()
        assert not moved.started
        gate.set()
        assert moved.answer().text == text


def test_an_answer_that_never_comes_is_given_up() -> None:
    class SilentPeers(HttpPeers):
        def look_up(self, question: PeerQuestion) -> Future[tuple[OfferedBlock, ...]]:
            """Never answer, whatever was promised."""
            return Future()

    clock = ManualClock()
    peers = SilentPeers([], key=None, decode=decode_foreign, metrics=RecordingMetrics(), log=RecordingLog())
    try:
        with EngineRig(peers=peers, clock=clock) as rig:
            asked = rig.ask(PROMPT, agent="ada")
            wait_until(lambda: rig.on_engine(lambda: rig.scheduler.is_held(SequenceId(1))), "the question")
            assert not asked.started
            clock.advance(ANSWER_DEADLINE_S)
            assert cost(asked.answer()) == (0, len(PROMPT))
    finally:
        peers.close()
