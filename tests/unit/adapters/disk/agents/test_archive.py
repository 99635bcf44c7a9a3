"""Agents on disk, beyond the contract: small saves, shared text, damage."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.agents import codec as agent_document
from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.agents.tables import AgentTables
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.domain.agent import MAX_TURNS_KEPT, Agent, AgentConfig
from semanticd.domain.agent_name import checked_agent_id
from semanticd.domain.agent_summary import AgentQuery, summary_of
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.agents import full_agent, make_turn
from tests.fakes.sqlite_memory import sqlite_bytes
from tests.fakes.telemetry import RecordingMetrics

Open = Callable[[], DiskAgentArchive]
FIXTURE = Path(__file__).resolve().parents[4] / "data" / "disk" / "agents-v1.sql"


class ListLog:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(event)

    warning = error = info


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def open_archive(tmp_path: Path, log: ListLog) -> Iterator[Open]:
    stores: list[DiskWarmStore] = []
    archives: list[DiskAgentArchive] = []

    def open_it() -> DiskAgentArchive:
        for opened in (*archives, *stores):
            opened.close()
        store = DiskWarmStore.open(tmp_path / "caches")
        stores.append(store)
        archives.append(DiskAgentArchive.open(store.folder, write_queue=store.write_queue, log=log))
        return archives[-1]

    yield open_it
    for opened in (*archives, *stores):
        opened.close()


def sql(tmp_path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(tmp_path / "caches" / "agents.sqlite", isolation_level=None)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_an_agent_survives_a_restart(open_archive: Open) -> None:
    agent = full_agent()
    open_archive().save(agent)
    archive = open_archive()
    assert archive.load(agent.agent_id) == agent
    assert archive.load_recent(max_agents=5, max_bytes=1 << 30) == [agent]


def test_an_agent_pinned_for_ever_by_its_end_survives_a_restart(open_archive: Open) -> None:
    agent = replace(full_agent(), pinned_until=float("inf"))
    open_archive().save(agent)
    archive = open_archive()
    assert archive.load(agent.agent_id) == agent
    assert archive.summary(agent.agent_id) == summary_of(agent)


def test_a_save_after_a_restart_continues_what_is_stored(open_archive: Open) -> None:
    agent = full_agent()
    open_archive().save(agent)
    longer = replace(agent, transcript=agent.transcript.extended(Segment("!", (6,))), block_table=())
    open_archive().save(longer)
    assert open_archive().load(agent.agent_id) == longer


def long_agent(num_segments: int) -> Agent:
    segments = tuple(Segment(f"{n:05d}" * 400, tuple(range(n, n + 500))) for n in range(num_segments))
    blocks = tuple(BlockHash(n.to_bytes(32, "big")) for n in range(2 * num_segments))
    turns = tuple(make_turn(n) for n in range(num_segments))[-MAX_TURNS_KEPT:]
    return Agent(
        AgentId("long"),
        1.0,
        2.0,
        transcript=Transcript(segments),
        block_table=blocks,
        turns=turns,
        num_turns=num_segments,
    )


def test_a_turn_writes_its_own_text_and_not_the_conversation_again(
    open_archive: Open, tmp_path: Path
) -> None:
    archive = open_archive()
    agent = long_agent(250)
    archive.save(agent)
    assert archive.flush(60)
    (busy, *_) = sql(tmp_path, "PRAGMA wal_checkpoint(TRUNCATE)")[0]
    assert not busy
    wal = tmp_path / "caches" / "agents.sqlite-wal"
    assert wal.stat().st_size == 0
    longer = replace(
        agent.with_turn(make_turn(250), now=3.0),
        transcript=agent.transcript.extended(Segment("new question", (1,)), Segment("new answer", (2,))),
        block_table=(*agent.block_table[:-1], BlockHash(b"t" * 32)),
    )
    archive.save(longer)
    assert archive.flush(60)
    # Whole pages are logged; a handful of them, against some 500 for the whole conversation.
    assert 0 < wal.stat().st_size < 100_000
    assert open_archive().load(AgentId("long")) == longer


def test_only_the_last_turns_are_kept(open_archive: Open, tmp_path: Path) -> None:
    archive = open_archive()
    agent = long_agent(MAX_TURNS_KEPT)
    archive.save(agent)
    for number in range(MAX_TURNS_KEPT, MAX_TURNS_KEPT + 3):
        agent = agent.with_turn(make_turn(number), now=float(number))
        archive.save(agent)
    assert open_archive().load(AgentId("long")) == agent
    assert sql(tmp_path, "SELECT count(*), min(position) FROM agent_turns") == [(MAX_TURNS_KEPT, 3)]


def test_equal_text_is_stored_once_and_goes_with_its_last_user(open_archive: Open, tmp_path: Path) -> None:
    archive = open_archive()
    shared, own = Segment("system prompt", (1, 2)), Segment("hello", (3,))
    a = Agent(AgentId("a"), 1.0, 1.0, transcript=Transcript((shared, own, own)))
    b = Agent(AgentId("b"), 1.0, 1.0, transcript=Transcript((shared,)))
    archive.save(a)
    archive.save(b)
    archive.flush(60)
    assert sql(tmp_path, "SELECT count(*) FROM segments") == [(2,)]
    archive.save(replace(a, transcript=Transcript((shared, own))))
    archive.flush(60)
    assert sql(tmp_path, "SELECT count(*) FROM segments") == [(2,)]
    archive.delete(AgentId("a"))
    archive.flush(60)
    assert sql(tmp_path, "SELECT text FROM segments") == [(b"system prompt",)]
    assert archive.load(AgentId("b")) == b
    archive.delete(AgentId("b"))
    archive.flush(60)
    for table in ("agents", "segments", "agent_segments", "agent_blocks", "agent_messages", "agent_turns"):
        assert sql(tmp_path, f"SELECT count(*) FROM {table}") == [(0,)], table


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE agents SET document = '{'",
        "UPDATE agents SET document = '[]'",
        "UPDATE agents SET document = '{\"version\": 99}'",
        "UPDATE segments SET text = 'other text' WHERE id = 1",
        "UPDATE segments SET token_ids = x'01' WHERE id = 1",
        "DELETE FROM agent_segments WHERE position = 1",
        "DELETE FROM agent_turns WHERE position = 0",
        'UPDATE agent_messages SET document = \'{"role": "king", "parts": []}\' WHERE position = 0',
        "UPDATE agent_turns SET document = '{}'",
    ],
)
def test_an_unreadable_agent_is_none_logged_and_can_be_saved_again(
    open_archive: Open, tmp_path: Path, log: ListLog, damage: str
) -> None:
    agent, other = full_agent("a"), Agent(AgentId("other"), 1.0, 1.0)
    archive = open_archive()
    archive.save(agent)
    archive.save(other)
    archive = open_archive()
    sql(
        tmp_path,
        damage.replace("UPDATE agents SET document = ", "UPDATE agents SET document = iif(agent_id = 'a', ")
        + (", document)" if "UPDATE agents" in damage else ""),
    )
    assert archive.load(AgentId("a")) is None
    assert log.lines == ["agents_not_read"]
    assert archive.load_recent(max_agents=2, max_bytes=1 << 30) == [other]
    archive.save(agent)
    assert open_archive().load(AgentId("a")) == agent


@pytest.mark.parametrize("summary", ["'{'", "'[]'", "x'ff'", '\'{"created_at": "long ago"}\''])
def test_an_unreadable_summary_hides_no_agent_and_is_logged(
    open_archive: Open, tmp_path: Path, log: ListLog, summary: str
) -> None:
    archive = open_archive()
    agents = [Agent(AgentId(f"a{at}"), 1.0, float(at), pinned=at == 2) for at in range(5)]
    for agent in agents:
        archive.save(agent)
    archive = open_archive()
    sql(tmp_path, f"UPDATE agents SET summary = {summary} WHERE agent_id = 'a2'")
    expected = [summary_of(agent) for agent in reversed(agents)]
    assert list(archive.page(AgentQuery()).summaries) == expected
    assert log.lines == ["agent_summary_not_read"]
    assert archive.summary(AgentId("a2")) == expected[2]
    page = archive.page(AgentQuery(limit=3))
    assert (list(page.summaries), page.num_agents, page.has_more) == (expected[:3], 5, True)
    page = archive.page(AgentQuery(limit=3, after=AgentId("a2")))
    assert (list(page.summaries), page.has_more) == (expected[3:], False)
    assert archive.load_recent(max_agents=9, max_bytes=1 << 30) == agents[::-1]


@pytest.mark.parametrize(
    "field",
    ['"created_at":1e308', '"last_used_at":NaN', '"num_turns":36893488147419103232', r'"model_id":"\ud83d"'],
)
def test_a_stored_value_that_nothing_could_show_costs_its_own_agent_only(
    open_archive: Open, tmp_path: Path, log: ListLog, field: str
) -> None:
    archive = open_archive()
    agents = [replace(full_agent(f"a{at}"), last_used_at=float(at)) for at in range(3)]
    for agent in agents:
        archive.save(agent)
    archive = open_archive()
    # The later one of two equal keys counts.
    end = "cast(rtrim(cast({0} as TEXT), '}}') || '{1}' as BLOB)"
    sql(
        tmp_path,
        f"UPDATE agents SET summary = {end.format('summary', ',' + field + '}')},"
        f" document = {end.format('document', '},' + field + '}')},"
        " created_at = 9e999, num_turns = 9223372036854775807 WHERE agent_id = 'a1'",
    )
    page = archive.page(AgentQuery())
    assert [one.agent_id for one in page.summaries] == ["a2", "a1", "a0"]
    assert (page.summaries[1].created_at, page.summaries[1].num_turns) == (0.0, 0)
    assert archive.load(AgentId("a1")) is None
    assert archive.load_recent(max_agents=3, max_bytes=1 << 30) == [agents[2], agents[0]]
    assert log.lines[0] == "agent_summary_not_read"


@pytest.mark.parametrize("column", ["model_id", "agent_id"])
def test_a_stored_name_with_a_broken_byte_hides_no_other_agent(
    open_archive: Open, tmp_path: Path, column: str
) -> None:
    archive = open_archive()
    for agent_id in ("a", "b"):
        archive.save(replace(full_agent(agent_id), last_used_at=float(agent_id == "a")))
    archive = open_archive()
    sql(tmp_path, f"UPDATE agents SET {column} = cast(x'6dff' as TEXT), summary = '' WHERE agent_id = 'a'")
    page = archive.page(AgentQuery())
    assert getattr(page.summaries[0], column) == "m\N{REPLACEMENT CHARACTER}"
    assert page.summaries[1].agent_id == "b"
    assert len(archive.ids()) == 2
    assert archive.load_recent(max_agents=3, max_bytes=1 << 30)[-1].agent_id == "b"


@pytest.mark.parametrize(
    "field", ['"finished_at":1e300', '"prompt_tokens":-1', '"completion_tokens":1180591620717411303424']
)
def test_a_stored_turn_that_nothing_could_show_makes_its_agent_unreadable(
    open_archive: Open, tmp_path: Path, field: str
) -> None:
    archive = open_archive()
    archive.save(full_agent("a"))
    archive.save(full_agent("b"))
    archive = open_archive()
    sql(
        tmp_path,
        f"UPDATE agent_turns SET document = cast(rtrim(cast(document as TEXT), '}}') || ',{field}}}' as BLOB)"
        " WHERE agent = (SELECT id FROM agents WHERE agent_id = 'a')",
    )
    assert archive.load(AgentId("a")) is None
    assert archive.load(AgentId("b")) == full_agent("b")


@pytest.mark.parametrize("damage", ["garbage", "cut", "unknown schema"])
def test_a_damaged_database_is_set_aside_and_an_empty_one_begun(
    open_archive: Open, tmp_path: Path, damage: str
) -> None:
    archive = open_archive()
    archive.save(full_agent())
    archive.flush(60)
    archive.close()
    path = tmp_path / "caches" / "agents.sqlite"
    if damage == "garbage":
        path.write_bytes(os.urandom(9000))
    elif damage == "cut":
        os.truncate(path, 4096)
    else:
        sql(tmp_path, "PRAGMA user_version = -7")
    archive = open_archive()
    assert archive.ids() == []
    assert (tmp_path / "caches" / "agents.sqlite.damaged").exists()
    archive.save(full_agent())
    assert open_archive().load(full_agent().agent_id) == full_agent()


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(
    open_archive: Open, tmp_path: Path
) -> None:
    archive = open_archive()
    archive.save(full_agent())
    archive.close()
    ((version,),) = sql(tmp_path, "PRAGMA user_version")
    sql(tmp_path, "PRAGMA user_version = 99")
    for _attempt in range(2):
        with pytest.raises(CacheError, match=r"a newer semanticd wrote it .*; install the newer version"):
            open_archive()
    assert not list((tmp_path / "caches").glob("*.damaged*"))
    sql(tmp_path, f"PRAGMA user_version = {version}")
    assert open_archive().load_recent(max_agents=9, max_bytes=1 << 30) == [full_agent()]


def test_a_save_that_failed_is_not_lost_and_tried_again(
    open_archive: Open, tmp_path: Path, log: ListLog
) -> None:
    archive = open_archive()
    sql(tmp_path, "CREATE TRIGGER full BEFORE INSERT ON agents BEGIN SELECT raise(ABORT, 'full'); END")
    agent = full_agent()
    archive.save(agent)
    assert not archive.is_saved(agent.agent_id).result(60)
    assert archive.num_unsaved == 1
    assert "agent_not_saved" in log.lines
    assert archive.load(agent.agent_id) == agent
    assert archive.ids() == [agent.agent_id]
    sql(tmp_path, "DROP TRIGGER full")
    archive.save(Agent(AgentId("next"), 1.0, 1.0))
    assert archive.is_saved(AgentId("next")).result(60)
    assert archive.is_saved(agent.agent_id).result(60)
    assert archive.num_unsaved == 0
    assert sql(tmp_path, "SELECT count(*) FROM agents") == [(2,)]
    assert open_archive().load(agent.agent_id) == agent


def test_an_agent_that_the_disk_did_not_delete_is_there_as_it_was(open_archive: Open, tmp_path: Path) -> None:
    archive = open_archive()
    agent = full_agent()
    archive.save(agent)
    archive.flush(60)
    sql(tmp_path, "CREATE TRIGGER full BEFORE DELETE ON agents BEGIN SELECT raise(ABORT, 'full'); END")
    deletions = [archive.delete(agent.agent_id), archive.delete(agent.agent_id)]
    assert [deletion.result(60) for deletion in deletions] == ["failed", "failed"]
    assert archive.load(agent.agent_id) == agent
    assert archive.ids() == [agent.agent_id]
    assert not archive.is_unsaved(agent.agent_id)
    sql(tmp_path, "DROP TRIGGER full")
    archive.close()
    assert archive.delete(agent.agent_id).result(60) == "failed", "closed"
    again = open_archive()
    assert again.load(agent.agent_id) == agent
    assert again.delete(agent.agent_id).result(60) == "done"
    assert again.load(agent.agent_id) is None


def test_an_agents_newest_state_outlives_a_deletion_that_the_disk_refused(
    open_archive: Open, tmp_path: Path
) -> None:
    archive = open_archive()
    stored = full_agent()
    archive.save(stored)
    archive.flush(60)
    sql(tmp_path, "CREATE TRIGGER full BEFORE UPDATE ON agents BEGIN SELECT raise(ABORT, 'full'); END")
    sql(tmp_path, "CREATE TRIGGER more BEFORE INSERT ON agents BEGIN SELECT raise(ABORT, 'full'); END")
    sql(tmp_path, "CREATE TRIGGER less BEFORE DELETE ON agents BEGIN SELECT raise(ABORT, 'full'); END")
    newest = replace(stored, pinned=not stored.pinned)
    archive.save(newest)
    assert archive.delete(stored.agent_id).result(60) == "failed"
    assert archive.load(stored.agent_id) == newest
    assert archive.is_unsaved(stored.agent_id)
    for trigger in ("full", "more", "less"):
        sql(tmp_path, f"DROP TRIGGER {trigger}")
    archive.close()
    assert open_archive().load(stored.agent_id) == newest


def test_without_an_archive_no_block_counts_as_an_agents_own(open_archive: Open, tmp_path: Path) -> None:
    archive = open_archive()
    block = BlockHash(b"b" * 32)
    assert archive.own_among(AgentId("a"), [block]).result(60) == [block]
    sql(tmp_path, "DROP TABLE past_blocks")
    assert archive.own_among(AgentId("a"), [block]).result(60) == []
    store = DiskWarmStore.open(tmp_path / "other")
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    store.close()
    archive.close()
    assert archive.own_among(AgentId("a"), [block]).result(60) == []


def test_a_document_of_a_newer_minor_form_still_loads() -> None:
    agent = full_agent()
    data = agent_document.encode_agent(agent)[:-1] + b',"unheard_of":[1,2]}'
    loaded, lengths = agent_document.decode_agent(agent.agent_id, data)
    assert loaded.config == agent.config
    assert lengths == agent_document.lengths(agent)


def test_agents_of_format_1_still_load(open_archive: Open, tmp_path: Path) -> None:
    open_archive().close()
    path = tmp_path / "caches" / "agents.sqlite"
    for file in path.parent.glob("agents.sqlite*"):
        file.unlink()
    with sqlite3.connect(path) as connection:
        connection.executescript(FIXTURE.read_text())
    connection.close()
    # Its id is one that requests cannot name.
    (loaded,) = open_archive().load_recent(max_agents=9, max_bytes=1 << 30)
    assert replace(loaded, agent_id=full_agent().agent_id) == full_agent()


class SavesMeanwhile:
    """Tables whose answers are overtaken: what is queued is saved before the caller has them."""

    def __init__(self, tables: AgentTables, question: str) -> None:
        self._tables = tables
        self._question = question
        self.save_all: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._tables, name)
        if name != self._question:
            return asked

        def answer_then_save(*given: Any, **more: Any) -> Any:
            found = asked(*given, **more)
            self.save_all()
            return found

        return answer_then_save


OWN = BlockHash(b"o" * 32)
QUESTIONS: dict[str, tuple[Callable[[DiskAgentArchive], object], object]] = {
    "holders": (lambda archive: archive.holders(OWN), ["a"]),
    "own_blocks": (lambda archive: archive.own_blocks(AgentId("a")), [OWN]),
    "block_tables": (lambda archive: archive.block_tables([AgentId("a")]), {"a": (OWN,)}),
    "first_blocks": (lambda archive: archive.first_blocks(), {"a": OWN}),
    "ids": (lambda archive: archive.ids(), ["a"]),
    "pinned": (lambda archive: [agent.agent_id for agent in archive.pinned()], ["a"]),
    "page": (lambda archive: archive.page(AgentQuery(limit=5)).num_agents, 1),
    # It was used since: what is stored of it is no longer so.
    "expired": (lambda archive: archive.expired(50.0, limit=5), []),
    "surplus_anonymous": (
        lambda archive: archive.surplus_anonymous(used_before=50.0, max_agents=5, limit=5),
        [],
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_save_that_ends_while_a_question_is_answered_is_not_overlooked(
    tmp_path: Path, log: ListLog, question: str
) -> None:
    store = DiskWarmStore.open(tmp_path / "caches")
    tables = SavesMeanwhile(AgentTables(store.folder.agents), question)
    archive = DiskAgentArchive(
        tables,  # type: ignore[arg-type]
        folder=store.folder,
        write_queue=store.write_queue,
        metrics=RecordingMetrics(),
        log=log,
    )
    config = AgentConfig(ttl_s=10.0)
    if question in ("expired", "surplus_anonymous"):
        archive.save(Agent(AgentId("a"), 1.0, 1.0, config, anonymous=True))
        assert archive.flush(60)
    may_save = threading.Event()
    store.write_queue.put(lambda: may_save.wait(60))
    agent = Agent(AgentId("a"), 1.0, 99.0, config, anonymous=True, pinned=True, block_table=(OWN,))
    archive.save(agent)

    def save_all() -> None:
        may_save.set()
        assert archive.flush(60)

    tables.save_all = save_all
    ask, expected = QUESTIONS[question]
    assert ask(archive) == expected
    archive.close()
    store.close()


ODD_IDS = (
    "''",
    "'a b'",
    "'a/b'",
    "'x' || char(10)",
    "'n' || char(0) || 'x'",
    "'stats'",
    "'import'",
    "'.a'",
    "'é'",
)
ODD_IDS += ("cast(x'6dff' as TEXT)", "x'00ff'", "'" + "x" * 129 + "'", "'a]'", "'^'")


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_agent_whose_stored_id_no_request_could_name_gets_another(
    open_archive: Open, tmp_path: Path, log: ListLog, odd: str
) -> None:
    archive = open_archive()
    for agent_id in ("a", "b"):
        archive.save(full_agent(agent_id))
    archive = open_archive()
    sql(tmp_path, f"UPDATE agents SET agent_id = {odd} WHERE agent_id = 'a'")
    sql(tmp_path, f"INSERT INTO past_blocks VALUES ({odd}, x'{'07' * 32}')")
    archive = open_archive()
    renamed = next(one for one in archive.ids() if one != "b")
    assert checked_agent_id(renamed, param="id").startswith("renamed-")
    assert archive.load(renamed) == replace(full_agent("a"), agent_id=renamed)
    assert archive.holders(BlockHash(b"\x07" * 32)) == [renamed]
    assert log.lines == ["agent_renamed"]
    assert archive.delete(renamed).result(60) == "done"
    assert open_archive().ids() == ["b"]


def test_an_id_that_can_be_named_stays_as_it_is(open_archive: Open, log: ListLog) -> None:
    ids = ["a", "Z.9_:@+=-", "x" * 128, "stats2", "user-0f"]
    archive = open_archive()
    for agent_id in ids:
        archive.save(full_agent(agent_id))
    assert sorted(open_archive().ids()) == sorted(ids)
    assert log.lines == []


@pytest.mark.parametrize("column", ["last_used_at", "created_at", "num_tokens", "num_turns"])
@pytest.mark.parametrize("value", ["'text'", "x'ff'", "9e999", "-5", "1e300"])
def test_a_stored_value_to_sort_by_hides_no_agent_from_any_page(
    open_archive: Open, tmp_path: Path, column: str, value: str
) -> None:
    archive = open_archive()
    for number in range(5):
        archive.save(replace(full_agent(f"a{number}"), last_used_at=float(number)))
    archive = open_archive()
    sql(tmp_path, f"UPDATE agents SET {column} = {value} WHERE agent_id IN ('a1', 'a3')")
    archive = open_archive()
    assert len(archive.ids()) == 5
    for order in ("used", "created", "tokens", "turns", "name"):
        seen: list[str] = []
        query = AgentQuery(limit=2, order=order)
        while True:
            page = archive.page(query)
            seen += [one.agent_id for one in page.summaries]
            if not page.has_more:
                break
            query = replace(query, after=page.summaries[-1].agent_id)
        assert sorted(seen) == [f"a{number}" for number in range(5)], order


def test_few_pages_of_many_agents_stay_in_memory(open_archive: Open) -> None:
    gc.collect()  # connections that other tests left
    archive = open_archive()
    before = sqlite_bytes()
    ids = [AgentId(f"a{number}") for number in range(40)]
    for agent_id in ids:
        config = AgentConfig(system=f"{agent_id} " * 20_000)
        archive.save(replace(full_agent(agent_id), config=config))
    assert archive.flush(60)
    assert all(archive.load(agent_id) for agent_id in ids)
    assert sqlite_bytes() - before < 3 << 19, "512 KiB for each of two connections, and what they prepared"
