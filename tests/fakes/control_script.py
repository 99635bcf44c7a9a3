"""A busy daemon's answers, for tests and for the pictures in the documentation."""

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
            "num_hot_blocks": 4, "hot_bytes": 40 * MIB * (at + 1), "warm_bytes": 60 * MIB * (at + 1),
            "shared_with": ["coder"] if at == 0 else [], "last_used_at": 1000.0 - at,
            "class": "background" if at > 5 else "interactive", "pinned": at == 2,
            "last_reuse_ratio": 0.97 - at / 10, "last_ttft_ms": 80.0 + 40 * at, "last_tokens_per_s": 55.0 - at,
        }
        for at, name in enumerate(NAMES)
    ]  # fmt: skip


def requests() -> list[dict[str, Any]]:
    """Return a decoding, a prefilling and a waiting request."""
    return [
        {"id": "req-1", "agent": "planner", "state": "decoding", "class": "interactive", "prompt_tokens": 2048,
         "prefill_progress": 1.0, "completion_tokens": 120, "max_new_tokens": 512, "age_s": 3.2, "ttft_ms": 84.0,
         "tokens_per_s": 48.5, "cached_tokens": 1990},
        {"id": "req-2", "agent": "coder", "state": "prefilling", "class": "interactive", "prompt_tokens": 8192,
         "prefill_progress": 0.4, "completion_tokens": 0, "max_new_tokens": 1024, "age_s": 1.1, "cached_tokens": 0},
        {"id": "req-3", "agent": "critic", "state": "waiting", "class": "background", "prompt_tokens": 512,
         "prefill_progress": 0.0, "completion_tokens": 0, "max_new_tokens": 64, "age_s": 0.4, "cached_tokens": 256},
    ]  # fmt: skip


def status(step: int = 0) -> dict[str, Any]:
    """Return the daemon's state; `step` moves the counters on."""
    return {
        "version": "1.0.0", "pid": 1, "state": "ready", "uptime_s": 3720.0 + step, "model": "smollm2-135m",
        "address": "http://127.0.0.1:8000", "models": [],
        "engine": {"num_running": 2, "num_waiting": 1, "decode_tokens_per_s": 80.0 + 15 * (step % 5),
                   "decode_step_ms": 18.0 + step % 4, "prefill_tokens_per_s": 900.0},
        "cache": {"budget_bytes": 4 * GIB, "running_bytes": 700 * MIB, "hot_bytes": 1800 * MIB,
                  "pinned_bytes": 400 * MIB, "in_flight_bytes": 90 * MIB, "num_hot_blocks": 96, "num_shared_blocks": 24,
                  "num_warm_blocks": 210, "warm_bytes": 6 * GIB, "warm_cap_bytes": 20 * GIB,
                  "hot_hit_tokens": 4000 * step, "warm_hit_tokens": 600 * step,
                  "computed_tokens": 500 * step + 90 * step * (step % 3), "num_evictions": step * step // 9},
    }  # fmt: skip


def models() -> list[dict[str, Any]]:
    """Return a current, an installed and an absent model."""
    return [
        {"id": "smollm2-135m", "loaded": True, "installed": True, "current": True, "context_length": 8192,
         "weights_bytes": 540 * MIB, "size_bytes": 98 * MIB, "precision": "exact", "description": "small and quick"},
        {"id": "qwen3-4b", "loaded": False, "installed": True, "context_length": 32768, "size_bytes": 2 * GIB,
         "description": "tools and thinking"},
        {"id": "deepseek-coder-v2-lite", "loaded": False, "installed": False, "context_length": 163840,
         "description": "default on Apple Silicon"},
    ]  # fmt: skip


def show(name: str) -> dict[str, Any]:
    """Return one agent with two turns, of which one missed."""
    row = next((one for one in agents() if one["id"] == name), {"id": name})
    turns = [
        {"request_id": "r1", "prompt_tokens": 900, "completion_tokens": 64, "reused_hot_tokens": 0,
         "restored_warm_tokens": 0, "computed_tokens": 900, "tier": "cold", "ttft_ms": 910.0, "finish_reason": "stop",
         "miss": {"cause": "first request of this agent", "position": 0}},
        {"request_id": "r2", "prompt_tokens": 1024, "completion_tokens": 120, "reused_hot_tokens": 964,
         "restored_warm_tokens": 0, "computed_tokens": 60, "tier": "hot", "ttft_ms": 84.0, "finish_reason": "stop",
         "miss": None},
    ]  # fmt: skip
    return {**row, "system": "You plan the work of the others.", "turns": turns}


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


def answers() -> dict[str, Any]:
    """Return the answers of all commands that a dashboard asks."""
    return {
        "status": status(), "agents.list": {"agents": agents()}, "requests.list": {"requests": requests()},
        "models.list": {"models": models()}, "agents.show": show("planner"), "doctor": doctor(),
    }  # fmt: skip
