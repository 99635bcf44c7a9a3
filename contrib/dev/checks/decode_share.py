"""How much of its speed a decoding agent keeps while another agent's long prompt is computed.

Usage: `python contrib/dev/checks/decode_share.py http://127.0.0.1:8000 [prompt tokens]`. Prints one line of JSON: the
decoder's rate alone and under contention (tokens per second), their ratio, and the longest gap in milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import threading
import time
from typing import Any

import httpx

WORDS = [
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
]


def body(prompt: str, max_tokens: int) -> dict[str, Any]:
    """Return a streaming chat request that does not end early."""
    return {
        "model": "default",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        # Never ends by itself: the end-of-turn token is made impossible.
        "logit_bias": {"2": -100},
    }


def stream_times(
    url: str, agent: str, prompt: str, max_tokens: int, times: list[float], done: threading.Event
) -> None:
    """Record when each piece of an answer arrives."""
    headers = {"X-Session-ID": agent}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body(prompt, max_tokens), headers=headers, timeout=600
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            # The first chunk only says the role.
            if '"content":' in line and '"content":""' not in line:
                times.append(time.perf_counter())
            if done.is_set():
                return


def rate(times: list[float]) -> float:
    """Return pieces per second."""
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="the daemon's address")
    parser.add_argument("prompt_tokens", type=int, nargs="?", default=2000, help="the other agent's prompt")
    options = parser.parse_args()
    url, num_tokens = options.url.rstrip("/"), options.prompt_tokens
    source = random.Random(time.time())
    prompt = " ".join(source.choice(WORDS) for _ in range(num_tokens * 9 // 10))
    done, times = threading.Event(), []
    decoder = threading.Thread(
        target=stream_times, args=(url, "decoder", "Tell a long story.", 2000, times, done)
    )
    decoder.start()
    while len(times) < 40:
        time.sleep(0.05)
    solo = rate(times[5:])
    begun = time.perf_counter()
    first: list[float] = []
    long = threading.Thread(
        target=stream_times, args=(url, f"long-{begun}", prompt, 2, first, threading.Event())
    )
    long.start()
    while not first and long.is_alive():
        time.sleep(0.01)
    ended = time.perf_counter()
    done.set()
    decoder.join()
    long.join()
    shared = [at for at in times if begun <= at <= ended]
    gaps = [1000 * (b - a) for a, b in itertools.pairwise(shared)]
    contended = rate(shared)
    print(
        json.dumps(
            {
                "solo_tokens_per_s": round(solo, 2),
                "contended_tokens_per_s": round(contended, 2),
                "ratio": round(contended / solo, 3),
                "longest_gap_ms": round(max(gaps)),
                "prefill_s": round(ended - begun, 1),
                "prompt_tokens": num_tokens,
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
