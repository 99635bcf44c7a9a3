"""A turn that only the server could tell again is on disk before its answer ends."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from semanticd.domain.generation import Finished, GenerationEvent, TextDelta
from semanticd.domain.ids import AgentId
from tests.fakes.engine_rig import PATIENCE_S
from tests.fakes.service_rig import ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive


class SlowArchive(MemoryAgentArchive):
    """Says that an agent is saved once `answer` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.saving: Future[bool] = Future()

    def is_saved(self, agent_id: AgentId) -> Future[bool]:
        """Return what `saving` will be."""
        self.asked.set()
        return self.saving


async def test_only_the_last_event_of_a_kept_turn_waits_for_the_disk() -> None:
    archive = SlowArchive()
    async with ServiceRig(archive=archive) as rig:
        rig.recorder.saved_within_s = PATIENCE_S
        stream = await rig.open("hello", agent="a", conversation=True)
        seen: list[GenerationEvent] = []
        see = seen.append

        async def read() -> None:
            async for event in stream:
                see(event)

        reading = asyncio.ensure_future(read())
        await asyncio.wait_for(archive.asked.wait(), PATIENCE_S)
        assert any(isinstance(event, TextDelta) and event.text for event in seen)
        assert not any(isinstance(event, Finished) for event in seen)
        assert len(await rig.agents.messages("a")) == 2, "what the disk is asked for is the whole turn"
        # The engine and the event loop go on meanwhile.
        assert (await rig.say("another's question", agent="b")).choices[0].text
        archive.saving.set_result(True)
        await asyncio.wait_for(reading, PATIENCE_S)
        assert isinstance(seen[-1], Finished)
        assert not seen[-1].usage.is_unsaved


@pytest.mark.parametrize("conversation", [False, True])
async def test_a_disk_that_hangs_ends_no_answer_and_holds_it_for_a_while_only(conversation: bool) -> None:
    archive = SlowArchive()
    async with ServiceRig(archive=archive) as rig:
        rig.recorder.saved_within_s = 0.01
        said = await rig.say("hello", agent="a", conversation=conversation)
        assert said.usage.is_unsaved is conversation
        # A client that keeps its conversation sends it again: nothing is waited for.
        assert archive.asked.is_set() is conversation


async def test_a_turn_that_the_disk_refuses_is_answered_and_says_so() -> None:
    archive = MemoryAgentArchive()
    async with ServiceRig(archive=archive) as rig:
        archive.refuses = True
        assert (await rig.say("hello", agent="a", conversation=True)).usage.is_unsaved
        assert (await rig.chat.say("a", "and again")).unsaved
        archive.refuses = False
        assert not (await rig.chat.say("a", "and now")).unsaved
