"""What is stored of agents may be anything: whatever is listed of it can be deleted, through every door."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from semanticd.adapters.control.commands import COMMANDS, CommandContext, run_command
from semanticd.adapters.control.services import Services
from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.agents.tables import AgentTables
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.control import messages as m
from tests.fakes.agents import full_agent
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

DAMAGE = {
    "document": "document = x'00'",
    "summary": "summary = x'ff'",
    "both": "summary = 'x', document = 5",
    "numbers": "last_used_at = 'soon', num_tokens = -9e999, num_turns = 'x'",
    "model": "model_id = cast(x'6dff' as TEXT), summary = ''",
    "newline": "agent_id = 'a' || char(10) || 'b'",
    "reserved": "agent_id = 'stats'",
    "blob": "agent_id = x'00'",
    "empty": "agent_id = ''",
    "long": "agent_id = printf('%5000s', 'x')",
}
LISTS = {
    "hashes": "UPDATE agent_blocks SET hash = 'text'",
    "positions": "UPDATE agent_blocks SET position = -position - 1",
    "turns": "UPDATE agent_turns SET document = x'00'",
    "messages": "UPDATE agent_messages SET document = 7",
    "segments": "UPDATE agent_segments SET segment = 999",
}


def write_damaged(folder: Path) -> int:
    """Store agents, and damage each in another way; returns how many."""
    store = DiskWarmStore.open(folder)
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    for name in (*DAMAGE, *LISTS):
        archive.save(full_agent(name))
    archive.close()
    store.close()
    with sqlite3.connect(folder / "agents.sqlite") as connection:
        for name, change in DAMAGE.items():
            connection.execute(f"UPDATE agents SET {change} WHERE agent_id = ?", (name,))
        for name, change in LISTS.items():
            connection.execute(f"{change} WHERE agent = (SELECT id FROM agents WHERE agent_id = ?)", (name,))
    connection.close()
    return len(DAMAGE) + len(LISTS)


async def control(daemon: WholeDaemon, command: str, **args: Any) -> Any:
    spec = COMMANDS[command]
    given = {one.name: None if one.required else one.default for one in spec.arguments} | args
    context = CommandContext(Services(agents=daemon.parts.agents))
    reply = m.decode(m.encode(m.Reply(1, await run_command(spec, context, given))))
    assert isinstance(reply, m.Reply)
    return reply.result


async def test_whatever_is_listed_of_damaged_agents_can_be_deleted(tmp_path: Path) -> None:
    number = write_damaged(tmp_path / "caches")
    async with WholeDaemon(tmp_path, model=write_tiny_model(tmp_path / "tiny")) as daemon:
        listed = [one["id"] for one in (await daemon.client.get("/v1/agents?limit=100")).json["data"]]
        assert listed == [one["id"] for one in (await control(daemon, "agents.list"))["agents"]]
        assert len(listed) == number
        for at, agent in enumerate(listed):
            if at % 2:
                answer = await daemon.client.send("DELETE", f"/v1/agents/{agent}")
                assert answer.status == 200, (agent, answer.content)
            else:
                assert (await control(daemon, "agents.delete", agent=agent))["deleted"], agent
        assert (await daemon.client.get("/v1/agents")).json["data"] == []
    tables = AgentTables(tmp_path / "caches" / "agents.sqlite")
    assert tables.ids() == {}
    tables.close()
