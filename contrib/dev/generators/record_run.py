"""Record what a real daemon says while real agents work: `python -m contrib.dev.generators.record_run`.

The documentation's pictures (`screens.py`) show this record, so that no figure in them is invented. A daemon of its own
serves SmolLM2 (from `--models`, which must hold it) to seven agents: some turns run alone, so that there is a
history, then more begin at once than the batch has places. What the dashboard would have asked at that moment is
written to `recorded_run.json`; paths of this machine are shortened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from semanticd.adapters.process import running_pid
from semanticd.control.async_client import AsyncControlClient, EventSubscription

RECORD = Path(__file__).with_name("recorded_run.json")
REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m"
TILES = ("planner", "coder", "reviewer")
RULES = (
    "You are one of several agents that work on the same small program, a budget for a cache in memory. "
    "Read what is asked, answer in short sentences, and name the file that you speak of. "
    "The program has a ledger, which counts bytes; a pool, which holds blocks; a writer, which brings them to disk. "
    "A block is immutable. Whoever changes the ledger changes its test too. "
)
ROLES = {
    "planner": ("You plan the work of the others.", "Which three steps come first, and why?"),
    "coder": ("You write the code.", "Write a function that returns the bytes in use."),
    "reviewer": ("You review what the coder wrote.", "What would you ask the coder about the ledger?"),
    "tester": ("You write tests.", "Name three cases that the ledger's test must have."),
    "writer": ("You write the documentation.", "Explain the pool to a new colleague."),
    "critic": ("You look for what is missing.", "What happens when the disk is full?"),
    "archivist": ("You sum up what was decided.", "Sum up the rules of this program."),
}
ENVIRON = {
    "SEMANTIC_MLX_MODEL_ID": MODEL,
    "SEMANTIC_MLX_CACHE_BUDGET_MB": "256",
    "SEMANTIC_MLX_MAX_BATCH_SIZE": "3",
    "SEMANTIC_AGENT_CACHE_MAX_GB": "2",
    "SEMANTIC_SERVER_PORT": "0",
}


def start(home: Path, models: Path) -> Path:
    """Start a daemon whose files lie under `home`; returns its control socket."""
    environ = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        **ENVIRON,
        "HOME": str(home),
        "SEMANTIC_AGENT_CACHE_DIR": str(home / "caches"),
        "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
        "SEMANTIC_RUNTIME_DIR": str(home / "run"),
        "SEMANTIC_LOG_DIR": str(home / "logs"),
        "SEMANTIC_MODELS_DIR": str(models),
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run([sys.executable, "-m", "semanticd", "start"], cwd=REPOSITORY, env=environ, check=True)
    return home / "run" / "semanticd.sock"


async def turn(client: httpx.AsyncClient, agent: str, *, said: list[dict[str, str]], max_tokens: int) -> str:
    """Take a turn of an agent; returns its answer."""
    role, question = ROLES[agent]
    messages = [
        {"role": "system", "content": 4 * RULES + role}, *said, {"role": "user", "content": question},
    ]  # fmt: skip
    body = {"model": "default", "messages": messages, "max_tokens": max_tokens, "temperature": 0.7, "seed": 7}
    answer = await client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": agent})
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


async def work(client: httpx.AsyncClient) -> None:
    """Take first turns one after the other, then a refused request; leave second turns of all running."""
    for agent in ROLES:
        await turn(client, agent, said=[], max_tokens=24)
    await client.post("/v1/chat/completions", json={"model": "default"}, headers={"X-Session-ID": "critic"})


async def is_busy(control: AsyncControlClient) -> bool:
    """Whether requests decode while others wait."""
    rows = (await control.call("requests.list"))["requests"]
    states = [row["state"] for row in rows]
    return "decoding" in states and "waiting" in states and max(row["completion_tokens"] for row in rows) > 20


async def record(socket: Path) -> dict[str, Any]:
    """Let the agents work, and return what the daemon says once some decode and others wait."""
    control = await AsyncControlClient.connect(socket, name="record-run")
    address = (await control.call("status"))["address"]
    said: list[dict[str, Any]] = []
    listening = asyncio.create_task(listen(await control.subscribe(["tokens"]), said))
    async with httpx.AsyncClient(base_url=address, timeout=300) as client:
        await work(client)
        begun = [{"role": "user", "content": "Begin."}, {"role": "assistant", "content": "I am ready."}]
        turns = [asyncio.create_task(turn(client, agent, said=begun, max_tokens=160)) for agent in ROLES]
        while not await is_busy(control):  # noqa: ASYNC110 (the daemon sends no event for it)
            await asyncio.sleep(0.1)
        answers: dict[str, Any] = {
            cmd: await control.call(cmd)
            for cmd in ("status", "agents.list", "requests.list", "cache.stats", "requests.failures")
        }
        answers["history"] = [await control.call("history", step_s=step_s) for step_s in (1, 10)]
        answers["agents.show"] = {agent: await control.call("agents.show", agent=agent) for agent in TILES}
        answers["agents.messages"] = {
            agent: await control.call("agents.messages", agent=agent) for agent in TILES
        }
        for cmd, args in (("models.list", {}), ("log.recent", {}), ("doctor", {"generate": False})):
            answers[cmd] = await control.call(cmd, **args)
        tokens = list(said)
        for one in turns:
            one.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
    listening.cancel()
    await control.close()
    return {"answers": answers, "tokens": tokens}


async def listen(events: EventSubscription, said: list[dict[str, Any]]) -> None:
    """Keep the token events."""
    async for event in events:
        said.append(dict(event.data))  # noqa: PERF401 (what came is read while more comes)


def shortened(recorded: dict[str, Any], *, home: Path, models: Path) -> str:
    """Return the record as JSON, with the folders of this machine in the words of a user's own."""
    text = json.dumps(recorded, ensure_ascii=False, indent=1)
    for path, shown in ((models, "~/.semantic/models"), (home, "~/.semantic"), (REPOSITORY, "~/semanticd")):
        text = text.replace(str(path), shown)
    return text + "\n"


def main() -> None:
    """Start, record, stop, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models", type=Path, default=REPOSITORY / ".cache" / "models", help="where SmolLM2 is"
    )
    models = parser.parse_args().models.resolve()
    with tempfile.TemporaryDirectory(prefix="sd", dir="/tmp") as folder:
        home = Path(folder)
        socket = start(home, models)
        try:
            recorded = asyncio.run(record(socket))
        finally:
            pid = running_pid(socket.with_name("semanticd.pid"))
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
        RECORD.write_text(shortened(recorded, home=home, models=models), encoding="utf-8")
        print(RECORD.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
