"""Twenty agents, a daemon of their own, and all that can happen to them: `python tests/soak/soak.py --minutes 10`.

Agents talk, hang up, are evicted, forked, rewound, pinned and deleted while the daemon is restarted and killed. At
the end a sample of conversations is asked again, turn by turn, of a daemon that has seen nothing: every answer must be
the same. Stored blocks are verified between rounds, and the process may grow by its budget and a tenth. Every token is
one byte here, so that text alone decides the tokens, whatever a killed daemon has forgotten. Prints JSON; exits 1 on
failure.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from semanticd.control.address import socket_path_in
from semanticd.control.client import ControlClient
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

NUM_AGENTS, AT_ONCE, BUDGET_MB = 20, 6, 64
MAX_TURNS, MAX_TOKENS, SAMPLE = 8, 24, 12
TIE = 0.01
"""Log-probabilities closer than this may change places with the order of a sum."""

WORDS = (
    "stone",
    "river",
    "light",
    "paper",
    "garden",
    "window",
    "silver",
    "morning",
    "letter",
    "music",
    "forest",
    "engine",
)
SYSTEMS = [f"You are helper number {number}. " + f"{WORDS[number]} comes first. " * 60 for number in range(3)]

Message = dict[str, str]


@dataclass
class Conversation:
    """What one client knows of its agent."""

    agent: str
    messages: list[Message]
    answers: list[str] = field(default_factory=list)


class Soak:
    """The run: clients in rounds, trouble between and within them, checks after each."""

    def __init__(self, home: Path, *, seed: int, calm: bool) -> None:
        """Make a tiny model and prepare its daemon; a calm one is neither stopped nor killed."""
        self.calm = calm
        self.random = random.Random(seed)
        self.model = write_tiny_model(home / "tiny", vocab=259)
        self.home = home
        self.daemon = self.new_daemon(
            "run", SEMANTIC_AGENT_MAX_AGENTS_IN_MEMORY="6", SEMANTIC_AGENT_CACHE_MAX_GB="0.06"
        )
        self.talks: list[Conversation] = []
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.killed = False
        self.baseline = 0
        self.growth: list[int] = []

    def new_daemon(self, name: str, **settings: str) -> DaemonProcess:
        """Return a daemon in a folder of its own."""
        (self.home / name).mkdir()
        return DaemonProcess(
            self.home / name,
            models_dir=self.home / "models",
            SEMANTIC_MLX_MODEL_ID=str(self.model),
            SEMANTIC_MLX_CACHE_BUDGET_MB=str(BUDGET_MB),
            SEMANTIC_MLX_BLOCK_TOKENS="64",
            **settings,
        )

    # One client's actions.

    def begin(self, agent: str) -> Conversation:
        """Start a conversation with one of the shared system prompts."""
        return Conversation(agent, [{"role": "system", "content": self.random.choice(SYSTEMS)}])

    def ask(self, talk: Conversation, client: httpx.Client) -> None:
        """Take a turn."""
        question = {
            "role": "user",
            "content": " ".join(self.random.choices(WORDS, k=self.random.randint(3, 60))),
        }
        body = chat_body([*talk.messages, question])
        response = client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": talk.agent})
        if self.accepted(response, "turn"):
            answer = response.json()["choices"][0]["message"]["content"]
            talk.messages += [question, {"role": "assistant", "content": answer}]
            talk.answers.append(answer)
            cached = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            self.done["tokens_cached"] += cached
            self.done["tokens_computed"] += response.json()["usage"]["prompt_tokens"] - cached
            if len(talk.answers) >= MAX_TURNS:
                self.forget(talk, client)

    def hang_up(self, talk: Conversation, client: httpx.Client) -> None:
        """Ask something long and leave, in the prompt or in the middle of the answer."""
        question = {"role": "user", "content": " ".join(self.random.choices(WORDS, k=300))}
        body = {**chat_body([*talk.messages, question]), "stream": True, "max_tokens": 2000}
        patience = self.random.choice([0.005, 0.05, 0.3])
        deadline = time.monotonic() + patience
        with client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"X-Session-ID": talk.agent}
        ) as response:
            for _ in response.iter_lines():
                if time.monotonic() > deadline:
                    break
        self.done["hang_up"] += 1

    def fork(self, talk: Conversation, client: httpx.Client) -> None:
        """Copy this agent into the place of another one of this round's idle agents."""
        new_id = f"{talk.agent.split('-')[0]}-{self.random.randrange(1 << 30)}"
        response = client.post(f"/v1/agents/{talk.agent}/fork", json={"id": new_id})
        if self.accepted(response, "fork", also=(404,)):
            old = talk.agent
            talk.agent = new_id
            self.accepted(client.delete(f"/v1/agents/{old}"), "delete", also=(404, 409))

    def rewind(self, talk: Conversation, client: httpx.Client) -> None:
        """Take the last turn back on both sides."""
        response = client.post(f"/v1/agents/{talk.agent}/rewind", json={"turns": 1})
        if self.accepted(response, "rewind", also=(400, 404, 409)) and talk.answers:
            talk.answers.pop()
            del talk.messages[-2:]

    def forget(self, talk: Conversation, client: httpx.Client) -> None:
        """Delete the agent and begin again under its name."""
        with self.lock:
            self.finished.append(Conversation(talk.agent, list(talk.messages), list(talk.answers)))
        self.accepted(client.delete(f"/v1/agents/{talk.agent}"), "delete", also=(404, 409))
        fresh = self.begin(talk.agent)
        talk.messages, talk.answers = fresh.messages, fresh.answers

    def simply(self, action: str) -> Callable[[Conversation, httpx.Client], None]:
        """Return an action that is one POST."""

        def deed(talk: Conversation, client: httpx.Client) -> None:
            self.accepted(client.post(f"/v1/agents/{talk.agent}/{action}", json={}), action, also=(404,))

        return deed

    def accepted(self, response: httpx.Response, what: str, *, also: tuple[int, ...] = ()) -> bool:
        """Count the answer; whatever is neither success nor foreseen is a failure."""
        if response.status_code < 300:
            self.done[what] += 1
            return True
        self.done[f"{what}_{response.status_code}"] += 1
        if response.status_code not in (429, 503, *also):
            self.failures.append(f"{what}: {response.status_code} {response.text[:300]}")
        return False

    def act(self, talk: Conversation) -> None:
        """Do something; while the daemon is being killed nothing need succeed."""
        deeds: list[tuple[int, Callable[[Conversation, httpx.Client], None]]] = [
            (60, self.ask), (12, self.hang_up), (6, self.fork), (5, self.rewind), (3, self.forget),
            (6, self.simply("evict")), (3, self.simply("pin")), (5, self.simply("unpin")),
        ]  # fmt: skip
        deed = self.random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]
        if not talk.answers:
            deed = self.ask
        try:
            with httpx.Client(base_url=self.daemon.url, timeout=60) as client:
                deed(talk, client)
        except httpx.TransportError as error:
            if not self.killed:
                self.failures.append(f"the connection broke: {error!r}")
            self.done["broken_by_kill"] += 1

    # Rounds.

    def run(self, seconds: float) -> None:
        """Live for so long, then compare."""
        self.lock = threading.Lock()
        self.finished: list[Conversation] = []
        self.start()
        self.talks = [self.begin(f"agent{number}") for number in range(NUM_AGENTS)]
        end = time.monotonic() + seconds
        number = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while time.monotonic() < end and len(self.failures) < 5:
                number += 1
                kill = (
                    threading.Timer(self.random.uniform(0.05, 1.5), self.kill)
                    if number % 5 == 0 and not self.calm
                    else None
                )
                if kill is not None:
                    kill.start()
                list(pool.map(self.act, self.random.sample(self.talks, NUM_AGENTS)))
                if kill is not None:
                    kill.join()
                    self.start()
                elif number % 7 == 0 and not self.calm:
                    self.restart()
                self.look()
        self.verify()
        self.look_back()
        self.compare()
        self.daemon.stop()

    def start(self) -> None:
        """Start the daemon and note how large it is once it has answered."""
        self.daemon.start()
        self.killed = False
        with httpx.Client(base_url=self.daemon.url, timeout=60) as client:
            warm_up = chat_body([{"role": "user", "content": "warm " * 800}])
            client.post(
                "/v1/chat/completions", json=warm_up, headers={"X-Session-ID": "warm-up"}
            ).raise_for_status()
        self.baseline = self.resident()

    def kill(self) -> None:
        """Cut the power."""
        self.killed = True
        self.daemon.kill()
        self.done["kill_9"] += 1

    def restart(self) -> None:
        """Stop as a user does, and start again."""
        status = self.daemon.stop()
        if status != 0:
            self.failures.append(f"stopping ended with {status}")
        self.done["restart"] += 1
        self.start()

    def look(self) -> None:
        """Measure, and now and then verify."""
        self.done["rounds"] += 1
        grown = self.resident() - self.baseline
        self.growth.append(grown)
        sys.stderr.write(f"soak: round {self.done['rounds']}, grown by {grown >> 20} MiB\n")
        if grown > 1.1 * BUDGET_MB * (1 << 20):
            self.failures.append(f"the daemon grew by {grown >> 20} MiB, its budget is {BUDGET_MB}")
        if self.done["rounds"] % 3 == 0:
            self.verify()

    def look_back(self) -> None:
        """In a process that was never ended, the last third of the run must not be larger than the middle one."""
        third = len(self.growth) // 3
        if self.calm and third >= 4:
            middle, last = (
                statistics.median(self.growth[third:-third]),
                statistics.median(self.growth[-third:]),
            )
            if last > middle + 0.1 * BUDGET_MB * (1 << 20):
                self.failures.append(
                    f"the daemon keeps growing: {int(middle) >> 20}, then {int(last) >> 20} MiB"
                )

    def resident(self) -> int:
        """Return the daemon's resident bytes."""
        return int(psutil.Process(self.daemon.pid).memory_info().rss)

    def verify(self) -> None:
        """Check every stored block; the engine checks its own books whenever it idles, and logs if they are wrong."""
        with ControlClient.connect(socket_path_in(self.daemon.home / "run")) as client:
            report = client.call("cache.verify", reply_within_s=60)
        self.done["blocks_verified"] += report["num_checked"]
        if report["num_broken"] or report["num_missing"]:
            self.failures.append(f"verification found {report}")
        text = self.daemon.log.read_text(errors="replace")
        for word in ("engine_failed", "AssertionError", "Traceback", '"level": "error"'):
            if word in text:
                at = text.index(word)
                self.failures.append(f"the log says {text[max(0, at - 200) : at + 600]}")

    # The reference.

    def compare(self) -> None:
        """Ask a sample again of a daemon that has seen nothing."""
        told = [talk for talk in (*self.finished, *self.talks) if talk.answers]
        sample = self.random.sample(told, min(SAMPLE, len(told)))
        reference = self.new_daemon("reference", SEMANTIC_AGENT_WRITE_POLICY="off")
        reference.start()
        try:
            with httpx.Client(base_url=reference.url, timeout=60) as client:
                for number, talk in enumerate(sample):
                    self.replay(talk, client, agent=f"reference-{number}")
        finally:
            reference.kill()

    def replay(self, talk: Conversation, client: httpx.Client, *, agent: str) -> None:
        """Compare each turn, computed from nothing."""
        for turn, expected in enumerate(talk.answers):
            prompt = talk.messages[: 2 * turn + 2]
            answer = cold_answer(client, prompt, agent=f"{agent}-{turn}")
            choice = answer["choices"][0]
            self.done["turns_compared"] += 1
            if choice["message"]["content"] == expected:
                continue
            at = first_difference(choice["message"]["content"], expected)
            top = choice["logprobs"]["content"][min(at, len(choice["logprobs"]["content"]) - 1)][
                "top_logprobs"
            ]
            if top[0]["logprob"] - top[1]["logprob"] < TIE:
                self.done["ties"] += 1
            else:
                self.failures.append(
                    f"{talk.agent} turn {turn} differs at {at}: {choice} instead of {expected!r}"
                )

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "ok": not self.failures,
            "failures": self.failures[:10],
            "budget_mib": BUDGET_MB,
            "max_growth_mib": max(self.growth, default=0) >> 20,
            "last_growth_mib": self.growth[-1] >> 20 if self.growth else 0,
            **dict(sorted(self.done.items())),
        }


def chat_body(messages: list[Message]) -> dict[str, Any]:
    """Return a greedy request."""
    return {"model": "tiny", "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}


def cold_answer(client: httpx.Client, prompt: list[Message], *, agent: str) -> dict[str, Any]:
    """Ask with an empty cache; blocks of the answer before may be in use for a moment longer than their answer."""
    body = {**chat_body(prompt), "logprobs": True, "top_logprobs": 2}
    for _ in range(10):
        client.delete("/admin/caches").raise_for_status()
        response = client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": agent})
        answer: dict[str, Any] = response.raise_for_status().json()
        if answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0:
            return answer
    raise AssertionError("the reference's cache could not be emptied")


def first_difference(one: str, other: str) -> int:
    """Return where two texts part."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--calm", action="store_true", help="neither restart nor kill: see the process grow")
    parser.add_argument("--keep", action="store_true", help="leave the daemon's folders")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="sms-", dir="/tmp"))
    sys.stderr.write(f"soak: seed {given.seed}, folder {home}\n")
    soak = Soak(home, seed=given.seed, calm=given.calm)
    try:
        soak.run(60 * given.minutes)
    except Exception as error:
        soak.failures.append(f"the run broke off: {error!r}")
        raise
    finally:
        soak.daemon.kill()
        print(json.dumps({"seed": given.seed, **soak.report()}, indent=2))
        if not given.keep:
            shutil.rmtree(home, ignore_errors=True)
    return 0 if not soak.failures else 1


if __name__ == "__main__":
    raise SystemExit(main())
