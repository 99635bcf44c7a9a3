"""A busy daemon's answers and events, for tests and for the pictures in the documentation."""

from __future__ import annotations

from typing import Any

GIB = 2**30
MIB = 2**20
NAMES = ("planner", "coder", "reviewer", "tester", "writer", "searcher", "critic", "archivist")
STATES = ("active", "active", "hot", "hot", "warm", "warm", "cold", "hot")


def agents() -> list[dict[str, Any]]:
    """Return eight agents in every state."""
    return [
        {
            "id": name, "state": STATES[at], "tier": "hot" if STATES[at] == "active" else STATES[at],
            "model": "smollm2-135m", "num_tokens": 1024 * (at + 1), "num_turns": at + 1, "num_blocks": 4 * (at + 1),
            "num_hot_blocks": 4 if at not in (4, 5, 6) else 0,
            "hot_bytes": 40 * MIB * (at + 1) if at not in (4, 5, 6) else 0,
            "own_hot_bytes": 30 * MIB * (at + 1) if at not in (4, 5, 6) else 0,
            "shared_hot_bytes": 10 * MIB * (at + 1) if at not in (4, 5, 6) else 0,
            "num_errors": 3 if at == 3 else 0, "saved_s": 40.0 * at,
            "warm_bytes": 60 * MIB * (at + 1) if at != 6 else 0,
            "shared_with": ["coder", "reviewer"] if at == 0 else [], "last_used_at": 1000.0 - at,
            "class": "background" if at > 5 else "interactive", "pinned": at == 2,
            "last_reuse_ratio": 0.97 - at / 10, "last_ttft_ms": 80.0 + 240 * at, "last_tokens_per_s": 55.0 - at,
        }
        for at, name in enumerate(NAMES)
    ]  # fmt: skip


def requests() -> list[dict[str, Any]]:
    """Return a decoding, a prefilling, a waiting and a restoring request."""
    return [
        {"id": "req-1", "agent": "planner", "state": "decoding", "class": "interactive", "prompt_tokens": 2048,
         "prefill_progress": 1.0, "completion_tokens": 120, "max_new_tokens": 512, "age_s": 3.2, "ttft_ms": 84.0,
         "tokens_per_s": 48.5, "tokens_per_step": 2.1, "cached_tokens": 1990, "model": "smollm2-135m"},
        {"id": "req-2", "agent": "coder", "state": "prefilling", "class": "interactive", "prompt_tokens": 8192,
         "prefill_progress": 0.43, "completion_tokens": 0, "max_new_tokens": 1024, "age_s": 1.1, "cached_tokens": 0,
         "model": "smollm2-135m"},
        {"id": "req-3", "agent": "critic", "state": "waiting", "class": "background", "prompt_tokens": 512,
         "prefill_progress": 0.0, "completion_tokens": 0, "max_new_tokens": 64, "age_s": 3.9, "cached_tokens": 256,
         "model": "smollm2-135m", "wait_reason": "memory", "wait_behind": "coder"},
        {"id": "req-4", "agent": "writer", "state": "waiting", "class": "interactive", "prompt_tokens": 6100,
         "prefill_progress": 0.0, "completion_tokens": 0, "max_new_tokens": 256, "age_s": 0.4, "cached_tokens": 0,
         "model": "smollm2-135m", "wait_reason": "restore", "wait_behind": None, "restore_progress": 0.61},
    ]  # fmt: skip


def status(step: int = 0) -> dict[str, Any]:
    """Return the daemon's state; `step` moves the counters on."""
    return {
        "version": "1.0.0", "pid": 1, "state": "ready", "uptime_s": 3720.0 + step, "model": "smollm2-135m",
        "address": "http://127.0.0.1:8000", "models": [], "model_stage": "idle", "model_progress": 0.0,
        "free_memory_bytes": 6 * GIB,
        "outcomes": {"num_answered": 118, "num_failed": 0, "num_refused": 0, "num_failed_in_a_row": 0,
                     "num_failed_last_minute": 0, "num_refused_last_minute": 0, "last": None},
        "savings": {"reused_tokens": 4600 * step, "saved_s": 5.1 * step, "recomputed_tokens": 0, "recomputed_s": 0.0,
                    "today": {"reused_tokens": 900 * step, "saved_s": 1.0 * step, "recomputed_tokens": 0}},
        "engine": {"num_running": 2, "max_batch_size": 5, "num_waiting": 2 + step % 7 // 5,
                   "decode_tokens_per_s": 80.0 + 15 * (step % 5),
                   "decode_step_ms": 18.0 + step % 4, "prefill_tokens_per_s": 900.0},
        "cache": {"budget_bytes": 4 * GIB, "running_bytes": 700 * MIB, "hot_bytes": 1800 * MIB,
                  "pinned_bytes": 400 * MIB, "in_flight_bytes": 90 * MIB, "num_hot_blocks": 96, "num_shared_blocks": 24,
                  "num_warm_blocks": 210, "warm_bytes": 6 * GIB, "warm_cap_bytes": 20 * GIB,
                  "hot_hit_tokens": 4000 * step, "warm_hit_tokens": 600 * step,
                  "computed_tokens": 500 * step + 45 * step * (step % 3), "num_evictions": step * step // 9},
    }  # fmt: skip


def history(*, step_s: int = 1, after: int = -1) -> dict[str, Any]:
    """Return a minute of work, a gap, and work again; of ten-second samples a third of an hour."""
    num = 180 if step_s == 1 else 120
    steps = [None if num // 3 <= at < num // 2 else at for at in range(num)]
    series: dict[str, list[Any]] = {
        "ttft_ms": [None if at is None or at % 3 else 80.0 + 37 * (at % 9) for at in steps],
        "itl_ms": [None if at is None else 18.0 + at % 4 for at in steps],
        "tokens_per_s": [None if at is None else 80.0 + 15 * (at % 5) for at in steps],
        "prefill_tokens_per_s": [None if at is None or at % 4 else 900.0 + at for at in steps],
        "queue": [0.0 if at is None else 1.0 + at % 7 // 5 for at in steps],
        "hit_rate": [None if at is None else 0.9 - 0.05 * (at % 3) for at in steps],
        "evictions": [0.0 if at is None else float(at % 4) for at in steps],
        "recomputed_tokens": [0.0 for _ in steps],
        "used_bytes": [float(2590 * MIB) for _ in steps],
        "failed": [0.0 for _ in steps],
        "refused": [0.0 for _ in steps],
    }
    first = min(after + 1, num)
    return {
        "step_s": step_s, "first": first, "last": num - 1, "ended_at": 1_000_000.0,
        "series": {name: values[first:] for name, values in series.items()},
    }  # fmt: skip


def failures() -> list[dict[str, Any]]:
    """Return a failure and refusals."""
    return [
        {"at": 1_764_000_000.0, "kind": "failed", "code": "engine_error", "agent": "tester", "request": "req-9",
         "status": 500, "message": "computing request req-9 failed: [metal] out of memory"},
        {"at": 1_763_999_990.0, "kind": "refused", "code": "rate_limited", "agent": "searcher", "request": "req-8",
         "status": 429, "message": "agent searcher sends more than 60 requests a minute; try again in 3 s"},
        {"at": 1_763_999_900.0, "kind": "refused", "code": "request_too_large", "agent": None, "request": "req-7",
         "status": 413, "message": "the body has 41.2 MB; at most 32 MB are taken"},
    ]  # fmt: skip


def blocks() -> list[list[Any]]:
    """Return 96 hot blocks: pinned, shared and own ones, of which eight are not on disk yet."""
    kinds = (
        [("pinned", 1)] * 14
        + [("pinned", 2)] * 4
        + [("hot", 3)] * 20
        + [("hot", 1)] * 50
        + [("dirty", 1)] * 8
    )
    return [[state, num_holders, 18 * MIB] for state, num_holders in kinds]


def models() -> list[dict[str, Any]]:
    """Return a current, an installed and an absent model."""
    return [
        {"id": "smollm2-135m", "loaded": True, "installed": True, "current": True, "context_length": 8192,
         "weights_bytes": 540 * MIB, "size_bytes": 98 * MIB, "precision": "exact", "description": "small and quick"},
        {"id": "qwen3-4b", "loaded": False, "installed": True, "context_length": 32768, "size_bytes": 2 * GIB,
         "memory_needed_bytes": 3 * GIB, "description": "tools and thinking"},
        {"id": "deepseek-coder-v2-lite", "loaded": False, "installed": False, "context_length": 163840,
         "description": "default on Apple Silicon"},
    ]  # fmt: skip


def change(stage: str, progress: float, *, model: str = "qwen3-4b", **more: Any) -> dict[str, Any]:
    """Return an event of the topic `models`."""
    return {"model": model, "stage": stage, "progress": progress, **more}


def show(name: str) -> dict[str, Any]:
    """Return one agent with three turns, of which two missed."""
    row = next((one for one in agents() if one["id"] == name), {"id": name})
    turns = [
        {"request_id": "r1", "prompt_tokens": 900, "completion_tokens": 64, "reused_hot_tokens": 0,
         "restored_warm_tokens": 0, "computed_tokens": 900, "tier": "cold", "ttft_ms": 910.0, "queue_ms": 2.0,
         "restore_ms": 0.0, "prefill_ms": 890.0, "decode_ms": 1300.0,
         "verdict": "890 of 910 ms computing 900 tokens: the first request has nothing to reuse.",
         "finish_reason": "stop", "miss": {"cause": "first_request", "position": 0, "expected": "", "found": "You"}},
        {"request_id": "r2", "prompt_tokens": 1024, "completion_tokens": 120, "reused_hot_tokens": 964,
         "restored_warm_tokens": 0, "computed_tokens": 60, "tier": "hot", "ttft_ms": 84.0, "queue_ms": 3.0,
         "restore_ms": 0.0, "prefill_ms": 75.0, "decode_ms": 2400.0, "decode_steps": 52,
         "verdict": "Quick: the first token came after 84 ms; 60 tokens were computed.",
         "finish_reason": "stop", "miss": None},
        {"request_id": "r3", "prompt_tokens": 1200, "completion_tokens": 41, "reused_hot_tokens": 512,
         "restored_warm_tokens": 0, "computed_tokens": 688, "tier": "hot", "ttft_ms": 5402.0, "queue_ms": 4300.0,
         "restore_ms": 0.0, "prefill_ms": 690.0, "decode_ms": 900.0, "wait_reason": "memory", "wait_behind": "coder",
         "verdict": "4.3 of 5.4 s waiting for RAM behind coder.",
         "finish_reason": "tool_calls",
         "miss": {"cause": "date_changed", "position": 512, "expected": "Today is 2026-11-22. You plan",
                  "found": "Today is 2026-11-23. You plan"}},
    ]  # fmt: skip
    return {
        **row, "system": "You plan the work of the others.", "turns": turns,
        "savings": {"reused_tokens": 1476, "saved_s": 1.6, "recomputed_tokens": 0},
        "sharing": [{"agent": "coder", "num_blocks": 3, "bytes": 54 * MIB},
                    {"agent": "reviewer", "num_blocks": 1, "bytes": 18 * MIB}],
    }  # fmt: skip


def peers() -> list[dict[str, Any]]:
    """Return a peer that brings blocks, one that was not asked yet, and one that fails."""
    return [
        {"address": "http://mac-2:8000", "state": "ready", "num_asked": 214, "num_found": 1630, "num_blocks": 1204,
         "num_bytes": 21 * GIB, "num_failures": 1, "bytes_per_s": 231.0 * MIB,
         "last_failure": "no complete answer within 8.0 s"},
        {"address": "http://mac-3:8000", "state": "ready"},
        {"address": "https://build-server.office.example:8443", "state": "resting", "num_asked": 3, "num_failures": 3,
         "last_failure": "it answered 401; is SEMANTIC_PEER_KEY one of its keys?"},
    ]  # fmt: skip


def messages() -> list[dict[str, Any]]:
    """Return a conversation with a tool call."""
    return [
        {"role": "system", "content": "You plan the work of the others."},
        {"role": "user", "content": "Which test fails, and why?"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look at the last run. "},
                                          {"type": "tool_call", "name": "run_tests", "arguments": {"path": "tests"}}]},
        {"role": "tool", "content": [{"type": "tool_result", "content": "1 failed: test_budget"}]},
    ]  # fmt: skip


def doctor() -> dict[str, Any]:
    """Return findings of all three kinds."""
    return {
        "ok": False,
        "findings": [
            {"check": "python", "state": "ok", "message": "3.11"},
            {"check": "blas", "state": "warning", "message": "reference BLAS", "advice": "install mkl"},
            {"check": "disk", "state": "error", "message": "2 GiB free", "advice": "lower the cache's cap"},
        ],
    }


def log_lines() -> list[dict[str, Any]]:
    """Return lines of every level."""
    told = [
        ("info", "daemon_ready", {"model": "smollm2-135m"}),
        ("debug", "block_persisted", {"hash": "9f2c", "bytes": 18 * MIB}),
        ("info", "http_request", {"route": "/v1/messages", "status": 200, "seconds": 0.21}),
        ("warning", "block_quarantined", {"hash": "51ab", "reason": "checksum differs"}),
        ("error", "model_load_failed", {"model": "qwen3-4b", "reason": "not enough memory"}),
    ]
    return [
        {"timestamp": f"2026-11-23T08:00:{at:02d}Z", "level": level, "event": event, "fields": fields}
        for at, (level, event, fields) in enumerate(told * 3)
    ]


def tokens() -> list[dict[str, Any]]:
    """Return what three agents say."""
    said = {
        "planner": "First read the failing test, then the code under it. The budget is counted twice when a block is "
        "pinned and hot; move the sum into the ledger and let both callers ask it.",
        "coder": "def used_bytes(self) -> int:\n    return self.running_bytes + self.hot_bytes + self.in_flight",
        "reviewer": "The name says bytes and the value is a count of blocks. Rename it or convert it; the test passes "
        "by accident because each block of the fake has one byte.",
    }  # fmt: skip
    events = []
    for agent, text in said.items():
        request = {"planner": "req-1", "coder": "req-2"}.get(agent, "req-0")
        for at, word in enumerate(text.split(" "), 1):
            data = {"agent": agent, "request": request, "num_tokens": at}
            events.append({**data, "text": word if at == 1 else f" {word}"})
    return events


def answers() -> dict[str, Any]:
    """Return the answers of all commands that a dashboard asks."""
    return {
        "status": status(), "agents.list": {"agents": agents()}, "requests.list": {"requests": requests()},
        "models.list": {"models": models()}, "agents.show": show("planner"), "doctor": doctor(),
        "history": history(), "requests.failures": {"failures": failures()}, "log.recent": {"lines": log_lines()},
        "agents.messages": {"messages": messages()}, "cache.stats": {**status()["cache"], "blocks": blocks()},
    }  # fmt: skip
