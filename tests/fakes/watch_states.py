"""Watch states as a dashboard has them after a while, without a daemon: for snapshots and the documentation."""

from __future__ import annotations

from semantic_tui.state import WatchState
from tests.fakes import control_script

WIDE_NAME = "評" * 95
COMBINED_NAME = "e\u0301" * 60
LONG_NAME = "anonymous-" + "0123456789abcdef" * 5
NOW = 1000.0
"""What the dashboard's clock says."""


def empty() -> WatchState:
    """A daemon that has just started: ready, a model, nothing asked yet."""
    state = WatchState(connection="connected", last_heard_at=NOW)
    engine = {"num_running": 0, "num_waiting": 0}
    cache = {"budget_bytes": 4 * control_script.GIB, "warm_cap_bytes": 20 * control_script.GIB}
    state.take("status", {**control_script.status(), "uptime_s": 2.0, "engine": engine, "cache": cache})
    return state


def busy() -> WatchState:
    """Eight agents, three requests, a minute of measurements."""
    state = WatchState(connection="connected", last_heard_at=NOW)
    state.take("requests", {"requests": control_script.requests()})
    state.take("status", control_script.status(119))
    for step_s in (1, 10):
        state.take_history(control_script.history(step_s=step_s))
    state.take_failures({"failures": control_script.failures()})
    state.take("agents", {"agents": control_script.agents()})
    state.take_blocks({"blocks": control_script.blocks()})
    for line in control_script.log_lines():
        state.take("log", line)
    for token in control_script.tokens():
        state.take("token", token)
    state.take_models({"models": control_script.models()})
    state.take_doctor(control_script.doctor())
    state.take_details("planner", control_script.show("planner"), control_script.messages())
    return state


def failing() -> WatchState:
    """The engine fails every request, and a limit refuses others."""
    state = busy()
    status = control_script.status(119)
    status["outcomes"] = {
        "num_answered": 118, "num_failed": 14, "num_refused": 31, "num_failed_in_a_row": 12,
        "num_failed_last_minute": 12, "num_refused_last_minute": 31, "last": control_script.failures()[0],
    }  # fmt: skip
    status["cache"]["warm_bytes"] = 19.5 * control_script.GIB
    state.take("status", status)
    return state


def first_turn() -> WatchState:
    """An agent's first request decodes; the daemon does not list the agent before its turn has ended."""
    state = empty()
    request = {**control_script.requests()[0], "agent": "newcomer", "prefilled_tokens": 2048}
    state.take("requests", {"requests": [request]})
    text = "I begin with the tests."
    state.take("token", {"agent": "newcomer", "request": "req-1", "text": text, "num_tokens": 6})
    return state


def with_peers() -> WatchState:
    """Blocks are read from other machines; one of them fails."""
    state = busy()
    state.take("status", {**control_script.status(119), "peers": control_script.peers()})
    return state


def away() -> WatchState:
    """One of two machines that compute the model together is away, so that the model is, too."""
    state = busy()
    lost = "rank 1 (10.0.0.2): the connection was closed"
    status = {
        **control_script.status(119), "state": "no_model", "model": None, "models": [],
        "ranks": [
            {"rank": 0, "address": "10.0.0.1", "state": "joined"},
            {"rank": 1, "address": "10.0.0.2", "state": "missing", "last_failure": lost},
        ],
        "model_away": f"the machines lost their connection ({lost}); rank 1 (10.0.0.2) has not joined",
    }  # fmt: skip
    state.take("status", status)
    return state


def crowded() -> WatchState:
    """Five hundred agents of five thousand, some with names longer than any column; those take up every place."""
    state = busy()
    names = [
        WIDE_NAME,
        COMBINED_NAME,
        LONG_NAME,
        *control_script.NAMES,
        *(f"worker-{at:03d}" for at in range(489)),
    ]
    rows = control_script.agents()
    agents = [
        {**rows[at % len(rows)], "id": name, "last_used_at": 1000.0 - at, "num_tokens": 10**at % 10**9}
        for at, name in enumerate(names)
    ]
    state.take("agents", {"agents": agents, "num_agents": 5000})
    requests = control_script.requests()
    waiting = [
        {**requests[2], "id": f"req-{at + 5}", "agent": names[at], "wait_behind": WIDE_NAME}
        for at in range(120)
    ]
    state.take("requests", {"requests": [*requests, *waiting]})
    for name in names[:3]:
        state.take("token", {"agent": name, "request": "r", "text": f"I am {name}. " * 20, "num_tokens": 40})
        state.take_details(name, {**control_script.show("planner"), "id": name}, control_script.messages())
    return state


def disconnected() -> WatchState:
    """The daemon went away 42 seconds ago; its last data is still shown."""
    state = busy()
    state.connection, state.reason, state.retry_in_s = "lost", "the daemon closed the connection", 2.0
    state.last_heard_at = NOW - 42
    return state


def absent() -> WatchState:
    """No daemon was ever there."""
    return WatchState(connection="absent", reason="no daemon listens", retry_in_s=5.0)


def swapping() -> WatchState:
    """A swap is under way, after one that failed."""
    state = busy()
    state.take("model", control_script.change("pulled", 1.0, model="deepseek-coder-v2-lite"))
    state.take("model", control_script.change("loading", 0.4))
    state.take("status", {**control_script.status(119), "model_stage": "loading", "model_progress": 0.4})
    return state


def rolled_back() -> WatchState:
    """A swap failed, and the old model serves."""
    state = busy()
    reason = "it needs 9.0 GiB and 6.0 GiB are free"
    state.take("model", control_script.change("failed", 0.0, reason=reason))
    return state
