"""The main job, end to end, on a real model: two agents talk, the daemon stops and starts, both go on at once.

Run it with `make demo`. It prints a row per turn and exits non-zero when an agent had to compute more than its new
tokens after the restart, or when its answer differs from the same conversation on an empty cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
from rich.console import Console
from rich.table import Table

MODEL = "smollm2-135m"
MAX_TOKENS = 24

RULES = """You are a careful assistant in a small engineering office. You answer questions about the document that
the user shows you, and about nothing else. You write plain English in short sentences. """ + " ".join(
    f"Rule {number}: when the user asks about {topic}, look for the sentence that speaks of {topic}, repeat its "
    "figures exactly as they are written, name the unit, and say so openly if the document does not mention it."
    for number, topic in enumerate(
        [
            "cost",
            "time",
            "weight",
            "safety",
            "power",
            "staff",
            "noise",
            "water",
            "heat",
            "travel",
            "waste",
            "repair",
        ],
        start=1,
    )
)

DOCUMENTS = {
    "ada": "Report on the harbour crane. "
    + " ".join(
        f"In week {week} the crane lifted {week * 37 + 11} containers, used {week * 5 + 40} litres of fuel and stood "
        f"still for {week * 2 % 7 + 1} hours because of wind."
        for week in range(1, 14)
    ),
    "bob": "Minutes of the garden club. "
    + " ".join(
        f"At meeting {meeting} the members planted {meeting * 6 + 5} roses, spent {meeting * 9 + 20} euros on soil and "
        f"agreed to water bed {meeting} every {meeting % 4 + 2} days."
        for meeting in range(1, 14)
    ),
}

QUESTIONS = {
    "ada": [
        "How many containers were lifted in week 3?",
        "And how much fuel was used in week 5?",
        "In which week was the wind worst?",
        "Sum it up.",
    ],
    "bob": [
        "How many roses were planted at meeting 2?",
        "And how much was spent on soil at meeting 4?",
        "How often is bed 7 watered?",
        "Sum it up.",
    ],
}

console = Console(width=110)


@dataclass
class Turn:
    """What one turn cost."""

    agent: str
    label: str
    prompt: int
    hot: int
    warm: int
    computed: int
    output: int
    ttft_ms: float
    text: str


@dataclass
class Conversation:
    """One agent's side of the demo; `api` is the dialect it speaks."""

    agent: str
    api: str
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


class Daemon:
    """A semanticd of our own, in folders of its own."""

    def __init__(self, home: Path) -> None:
        """Choose a free port and keep everything but the models under `home`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SEMANTIC_")},
            "SEMANTIC_AGENT_CACHE_DIR": str(home / "caches"),
            "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
            # The table shows what turns after the restart read from disk.
            "SEMANTIC_AGENT_PRELOAD_SHARE": "0",
            "SEMANTIC_RUNTIME_DIR": str(home / "run"),
            "SEMANTIC_LOG_DIR": str(home / "logs"),
            "SEMANTIC_MLX_MODEL_ID": MODEL,
            "SEMANTIC_SERVER_PORT": str(self.port),
            "NO_PROXY": "127.0.0.1",
        }
        if "SEMANTIC_MODELS_DIR" in os.environ:
            self.env["SEMANTIC_MODELS_DIR"] = os.environ["SEMANTIC_MODELS_DIR"]

    def run(self, *arguments: str) -> None:
        """Type a semanticd command; its failure ends the demo."""
        console.print(f"[bold]$ semanticd {' '.join(arguments)}[/bold]")
        done = subprocess.run([sys.executable, "-m", "semanticd", *arguments], env=self.env, check=False)
        if done.returncode:
            raise SystemExit(f"semanticd {arguments[0]} ended with {done.returncode}")


def say(daemon: Daemon, talk: Conversation, question: str, label: str) -> Turn:
    """Ask, stream the answer with the dialect's own SDK, and fetch what the turn cost."""
    content = question if talk.messages else f"{DOCUMENTS[talk.agent]}\n\n{question}"
    talk.messages.append({"role": "user", "content": content})
    text, ttft_ms = (ask_anthropic if talk.api == "anthropic" else ask_openai)(daemon, talk)
    talk.messages.append({"role": "assistant", "content": text})
    cost = httpx.get(f"{daemon.url}/v1/agents/{talk.agent}/cache").raise_for_status().json()["last"]
    turn = Turn(
        agent=talk.agent,
        label=label,
        prompt=cost["prompt_tokens"],
        hot=cost["reused_hot_tokens"],
        warm=cost["restored_warm_tokens"],
        computed=cost["computed_tokens"],
        output=cost["completion_tokens"],
        ttft_ms=ttft_ms,
        text=text,
    )
    talk.turns.append(turn)
    return turn


def ask_anthropic(daemon: Daemon, talk: Conversation) -> tuple[str, float]:
    """Stream from the Anthropic Messages API; the agent is named by a header."""
    client = anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0, timeout=600)
    request: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "system": RULES,
        "messages": talk.messages,
        "extra_headers": {"X-Session-ID": talk.agent, "anthropic-version": "2023-06-01"},
        "extra_body": {"temperature": 0},
    }
    pieces: list[str] = []
    ttft_ms = 0.0
    began = time.perf_counter()
    with client.messages.stream(**request) as stream:
        for piece in stream.text_stream:
            ttft_ms = ttft_ms or 1000 * (time.perf_counter() - began)
            pieces.append(piece)
    return "".join(pieces), ttft_ms


def ask_openai(daemon: Daemon, talk: Conversation) -> tuple[str, float]:
    """Stream from the OpenAI Chat Completions API; the agent is named by `prompt_cache_key`."""
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=600)
    request: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "prompt_cache_key": talk.agent,
        "messages": [{"role": "system", "content": RULES}, *talk.messages],
    }
    pieces: list[str] = []
    ttft_ms = 0.0
    began = time.perf_counter()
    for chunk in client.chat.completions.create(**request):
        if chunk.choices and chunk.choices[0].delta.content:
            ttft_ms = ttft_ms or 1000 * (time.perf_counter() - began)
            pieces.append(chunk.choices[0].delta.content)
    return "".join(pieces), ttft_ms


def show(turns: list[Turn]) -> None:
    """Print a row per turn."""
    table = Table(title="Tokens per turn")
    for name in ("agent", "turn", "prompt", "hot", "warm", "computed", "TTFT ms", "answer"):
        table.add_column(name, justify="left" if name in {"agent", "turn", "answer"} else "right")
    for turn in turns:
        table.add_row(
            turn.agent,
            turn.label,
            str(turn.prompt),
            str(turn.hot),
            str(turn.warm),
            str(turn.computed),
            f"{turn.ttft_ms:.0f}",
            " ".join(turn.text.split())[:36],
        )
    console.print(table)


def judge(talk: Conversation, cold: Turn) -> list[str]:
    """Return what went wrong after the restart."""
    before, after = talk.turns[-2], talk.turns[-1]
    new_tokens = after.prompt - before.prompt - before.output
    faults = []
    if after.computed > new_tokens:
        faults.append(
            f"{talk.agent}: computed {after.computed} tokens after the restart, only {new_tokens} were new"
        )
    if after.text != cold.text:
        faults.append(f"{talk.agent}: warm answer {after.text!r} differs from the cold one {cold.text!r}")
    if after.warm == 0:
        faults.append(f"{talk.agent}: nothing was restored from disk after the restart")
    ratio = after.ttft_ms / cold.ttft_ms
    console.print(
        f"{talk.agent}: {after.computed} of {after.prompt} tokens computed after the restart ({new_tokens} new); "
        f"TTFT {after.ttft_ms:.0f} ms warm, {cold.ttft_ms:.0f} ms cold: 1/{1 / ratio:.0f}"
    )
    return faults


def replay_cold(talk: Conversation, daemon: Daemon) -> Turn:
    """Ask the last question again in one go, on an empty cache."""
    again = Conversation(talk.agent, talk.api, messages=list(talk.messages[:-2]))
    return say(daemon, again, talk.messages[-2]["content"], "cold replay")


def main() -> int:
    """Run the demo; returns the exit status."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    home = Path(tempfile.mkdtemp(prefix="semd-"))
    talks = [Conversation("ada", "anthropic"), Conversation("bob", "openai")]
    daemon = Daemon(home / "one")
    empty = Daemon(home / "two")
    try:
        daemon.run("models", "pull", MODEL)
        daemon.run("start")
        try:
            for number in range(3):
                for talk in talks:
                    say(daemon, talk, QUESTIONS[talk.agent][number], str(number + 1))
            daemon.run("stop")
            daemon.run("start")
            for talk in talks:
                say(daemon, talk, QUESTIONS[talk.agent][3], "4, restarted")
        finally:
            daemon.run("stop")
        empty.run("start")
        try:
            # The cache is cleared in between, so that not even the shared system prompt is found.
            cold = []
            for talk in talks:
                cold.append(replay_cold(talk, empty))
                httpx.delete(f"{empty.url}/admin/caches").raise_for_status()
        finally:
            empty.run("stop")
        show([turn for talk in talks for turn in talk.turns] + cold)
        faults = [fault for talk, turn in zip(talks, cold, strict=True) for fault in judge(talk, turn)]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for fault in faults:
        console.print(f"[red]{fault}[/red]")
    if not faults:
        console.print("Both agents resumed after the restart and computed only what was new.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
