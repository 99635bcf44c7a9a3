"""What hostile clients cost a well-behaved one: `python contrib/dev/checks/door_load.py [--connections N] [--cases N]`.

Starts a daemon with a tiny model of random weights in folders of its own. First N connections send nothing, half a
head, half a body, or read nothing of a stream, and a well-behaved client's `/health/live` and one-token chats are
timed before and during (no chats during unread streams: they wait in the engine's queue as for any other client).
Then N seeded random requests (paths, headers, bodies, schemas) are sent while another client streams, and at last three
bodies of two million JSON values at once. Prints JSON: p95 in milliseconds, the longest silence of the stream and of
`/health/live`, statuses, descriptors and memory before and after. Needs the extra `dev`.

Memory is compared at equal states: "before" is taken after a warm-up with connections of every kind and with as many
random requests of every dialect as a round has, and at both points the cache is cleared, so that no KV counts, and the
cache of compiled forms (64 MiB) is refilled with forms that the random requests do not have. The warm-up fills it
once, for a full one whose forms are replaced one by one takes 8 MiB more than one that was filled when it was empty:
the heap then has gaps of less than a page between forms, and no more of them after the tenth time than after the
second. What other caches of bounded size hold beyond that (stored responses, agents' texts) is shown next to it.
Memory does not depend on the machine's load, the times do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import httpx
import psutil

from semanticd.control.client import ControlClient
from tests.fakes.daemon_process import DaemonProcess

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
STREAM_BODY = {
    "model": "default",
    "stream": True,
    "max_tokens": 2000,
    "messages": [{"role": "user", "content": "hi"}],
    # The tokens that end an answer of `write_short_model`.
    "logit_bias": {str(token): -100 for token in range(256, 512)},
}
TROUBLE = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: local",
    "half a body": f"{HEAD}999\r\n\r\n{{".encode(),
    "reads nothing": f"{HEAD}{len(json.dumps(STREAM_BODY))}\r\n\r\n{json.dumps(STREAM_BODY)}".encode(),
}


def p95_ms(times: list[float]) -> float:
    """Return the 95th percentile of seconds, in milliseconds."""
    return round(statistics.quantiles(times, n=20)[-1] * 1000, 1)


class Check:
    """One daemon, and what is measured on it."""

    def __init__(self, daemon: DaemonProcess) -> None:
        """Measure the started `daemon`."""
        self.daemon = daemon
        self.process = psutil.Process(daemon.pid)
        address = urlparse(daemon.url)
        self.address = (address.hostname, address.port)
        self._numbers = itertools.count(1000)

    def well_behaved(self, number: int, *, chat: bool = True) -> dict[str, float]:
        """Return the p95 of health requests and of one-token chats of a client of its own."""
        health, chats = [], []
        with httpx.Client(base_url=self.daemon.url, timeout=120) as client:
            for index in range(number):
                began = time.perf_counter()
                client.get("/health/live").raise_for_status()
                health.append(time.perf_counter() - began)
                if chat and index % 4 == 0:
                    body = {
                        "messages": [{"role": "user", "content": "hi"}],
                        "max_tokens": 1,
                        "model": "default",
                    }
                    began = time.perf_counter()
                    answer = client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": "good"})
                    answer.raise_for_status()
                    chats.append(time.perf_counter() - began)
        return {"health_p95_ms": p95_ms(health), **({"chat_p95_ms": p95_ms(chats)} if chats else {})}

    def fill_forms(self) -> None:
        """Have so many forms compiled that no other is kept, all of the same size."""
        headers = {"X-Session-ID": "forms"}
        num_compiled = 0
        with httpx.Client(base_url=self.daemon.url, timeout=120, headers=headers) as client:
            while num_compiled < NUM_FORMS:
                number = next(self._numbers)
                members = {
                    f"m{n}": {"type": "string", "pattern": rf"^\p{{L}}{{{n + 1},}}x{number}$"}
                    for n in range(FORM_MEMBERS)
                }
                form = {"name": "f", "schema": {"type": "object", "properties": members}}
                body = {
                    "model": "default",
                    "messages": [{"role": "user", "content": "hi"}],
                    "max_tokens": 1,
                    "response_format": {"type": "json_schema", "json_schema": form},
                }
                answer = client.post("/v1/chat/completions", json=body)
                # On a busy machine one is refused that does not compile within its two seconds.
                num_compiled += answer.status_code == 200

    def quiet(self) -> dict[str, float]:
        """Return `resources()` at the state that is compared, and what the cache still counts.

        The cache is cleared, the forms are others, and freed memory is given back.
        """
        self.fill_forms()
        with ControlClient.connect(self.daemon.home / "run" / "semanticd.sock") as control:
            control.call("cache.clear")
            stats = control.call("cache.stats")
        time.sleep(GIVEN_BACK_S)
        kept = {
            f"{name}_mib": round(stats[f"{name}_bytes"] / 2**20, 1) for name in ("hot", "running", "text")
        }
        return {**self.resources(), **kept}

    def resources(self) -> dict[str, float]:
        """Return open descriptors and resident memory in MiB."""
        return {
            "descriptors": self.process.num_fds(),
            "rss_mib": round(self.process.memory_info().rss / 2**20, 1),
        }

    def connections(self, kind: str, number: int, requests: int) -> dict[str, Any]:
        """Hold connections of one kind, and time a well-behaved client meanwhile."""
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                with contextlib.suppress(OSError):
                    made = stack.enter_context(socket.create_connection(self.address, timeout=30))
                    made.sendall(TROUBLE[kind])
            return self.well_behaved(requests, chat=kind != "reads nothing")

    def settled(self, *, descriptors: float, within_s: float = 40.0) -> dict[str, float]:
        """Wait for descriptors to come back, then return the `quiet()` of median memory."""
        deadline = time.monotonic() + within_s
        while self.process.num_fds() > descriptors + 8 and time.monotonic() < deadline:
            time.sleep(0.5)
        states = sorted((self.quiet() for _ in range(STATES)), key=lambda state: state["rss_mib"])
        return states[STATES // 2]

    def many_values(self) -> dict[str, Any]:
        """Return how long `/health/live` took at most while three bodies of two million values came at once."""
        body = (
            b'{"model":"default","messages":[],"x":{'
            + b",".join(b'"%09d":1' % i for i in range(2_000_000))
            + b"}}"
        )
        statuses: list[int] = []

        def post() -> None:
            url = f"{self.daemon.url}/v1/chat/completions"
            headers = {"content-type": "application/json"}
            statuses.append(httpx.post(url, content=body, headers=headers, timeout=120).status_code)

        threads = [threading.Thread(target=post) for _ in range(3)]
        times = []
        with httpx.Client(base_url=self.daemon.url, timeout=120) as client:
            client.get("/health/live")
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                began = time.perf_counter()
                client.get("/health/live")
                times.append(time.perf_counter() - began)
        return {"statuses": statuses, "longest_health_s": round(max(times), 3), "body_mib": len(body) >> 20}

    @contextlib.contextmanager
    def stream(self) -> Iterator[list[float]]:
        """Stream endless answers in a thread; yields the gaps between pieces, in seconds."""
        gaps: list[float] = []
        ending = threading.Event()

        def read() -> None:
            with httpx.Client(base_url=self.daemon.url, timeout=120) as client:
                while not ending.is_set():
                    headers = {"X-Session-ID": "stream"}
                    with client.stream(
                        "POST", "/v1/chat/completions", json=STREAM_BODY, headers=headers
                    ) as answer:
                        last = None
                        for line in answer.iter_lines():
                            now = time.perf_counter()
                            if last is not None and line:
                                gaps.append(now - last)
                            last = now if line else last
                            if ending.is_set():
                                return

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield gaps
        finally:
            ending.set()
            thread.join(60)

    def random_requests(self, number: int, *, first: int = 0) -> Counter[int]:
        """Send seeded random requests of all kinds over real connections, from number `first` on.

        Returns their statuses.
        """
        from tests.integration.http import test_fuzz as fuzz  # imports MLX, which --help must not wait for

        statuses: Counter[int] = Counter()
        with httpx.Client(base_url=self.daemon.url, timeout=60) as client:
            for case in range(first, first + number):
                url, headers, raw = fuzz.random_request(case)
                try:
                    answer = client.post(
                        url,
                        content=raw,
                        headers=[(k, v.encode("latin-1", "replace")) for k, v in headers.items()],
                    )
                    statuses[answer.status_code] += 1
                    if answer.status_code >= 500 and answer.status_code != 503:
                        print(
                            f"case {case}: {answer.status_code} {url} {raw[:300]!r} {answer.text[:300]}",
                            file=sys.stderr,
                        )
                except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError):
                    statuses[-1] += 1  # the client's own library refuses to send it
                except httpx.RemoteProtocolError:
                    statuses[0] += 1
        return statuses


NUM_FORMS, FORM_MEMBERS = 110, 30
"""One of these forms takes about 0.65 MiB."""
GIVEN_BACK_S = 8.0
"""Memory that is freed is given back to the system every five seconds."""
STATES = 3
"""States of which the median counts: one varies by 2 % from the next, as other forms leave other gaps."""
ROUNDS = 5
"""Parts of the random requests; the resident memory is looked at after each."""


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--connections", type=int, default=2000, help="connections in all, a quarter of each kind"
    )
    parser.add_argument("--cases", type=int, default=20_000, help="random requests")
    parser.add_argument(
        "--requests", type=int, default=200, help="requests of the well-behaved client per measurement"
    )
    options = parser.parse_args()
    from tests.integration.http.test_fuzz import (
        write_short_model,  # imports MLX, which --help must not wait for
    )

    with tempfile.TemporaryDirectory(prefix="smt-") as name:
        home = Path(name)
        model = write_short_model(home / "tiny")
        daemon = DaemonProcess(
            home, models_dir=home, SEMANTIC_MLX_MODEL_ID=str(model), SEMANTIC_MLX_CACHE_BUDGET_MB="64"
        )
        daemon.start()
        try:
            print(json.dumps(measured(Check(daemon), options), indent=2))
            print(f"exit status {daemon.stop()}", file=sys.stderr)
        finally:
            daemon.kill()


def measured(check: Check, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    result: dict[str, Any] = {}
    check.well_behaved(40)  # warm-up
    for kind in TROUBLE:
        check.connections(kind, options.connections // 4, 20)
    # Other cases than those of the rounds, and as many: what fills once is filled.
    check.random_requests(options.cases // ROUNDS, first=options.cases)
    check.fill_forms()
    before = check.settled(descriptors=60)
    result["before"] = {**before, **check.well_behaved(options.requests)}
    for kind in TROUBLE:
        result[kind] = check.connections(kind, options.connections // 4, options.requests)
        print(f"{kind}: {result[kind]}", file=sys.stderr)
    result["after connections"] = check.settled(descriptors=before["descriptors"])
    statuses, rounds = Counter[int](), []
    with check.stream() as gaps:
        for number in range(ROUNDS):
            size = options.cases // ROUNDS
            statuses += check.random_requests(size, first=number * size)
            rounds.append(check.resources()["rss_mib"])
            print(f"round {number + 1} of {ROUNDS}: {rounds[-1]} MiB", file=sys.stderr)
    result["random requests"] = {
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "longest_silence_s": round(max(gaps), 3),
        "p999_silence_s": round(statistics.quantiles(gaps, n=1000)[-1], 3),
        "rss_mib_after_rounds": rounds,
    }
    result["three bodies of two million values"] = check.many_values()
    after = check.settled(descriptors=before["descriptors"])
    result["after random requests"] = {**after, **check.well_behaved(options.requests)}
    result["rss_ratio"] = round(after["rss_mib"] / before["rss_mib"], 3)
    result["rss_at"] = (
        "equal states: a warm-up before, the cache cleared and all forms replaced at both points"
    )
    return result


if __name__ == "__main__":
    main()
