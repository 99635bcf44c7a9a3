"""A restart is refused before the stop where the next daemon could not listen, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from semanticd.adapters.config import effective, load_settings
from semanticd.adapters.process import bind_listener
from semanticd.control.results import ConfigValue, StatusResult
from semanticd.domain.errors import DaemonError, ModelNotFoundError
from semanticd.entrypoints.cli.restart_plan import plan
from tests.fakes.daemon_process import free_port

LOCAL = "127.0.0.1"


class Ports:
    """Ports of this machine that are in use, or free."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def taken(self, host: str = LOCAL) -> int:
        listener = bind_listener(host, 0)
        self._stack.callback(listener.close)
        return int(listener.getsockname()[1])

    def free(self) -> int:
        return free_port()


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ports]:
    monkeypatch.setenv("SEMANTIC_API_KEY", "k" * 32)  # hosts beyond this machine need one
    with ExitStack() as stack:
        yield Ports(stack)


def restart(
    flags: dict[str, object],
    *,
    host: str = LOCAL,
    port: int,
    ollama: int | None = None,
    at: int | None = None,
) -> list[str]:
    """Plan the restart of a daemon that runs with these settings, and listens at `at`; returns what changes."""
    shown = [
        ConfigValue("server.host", host, "flag --host"),
        ConfigValue("server.port", port, "flag --port"),
        ConfigValue("server.ollama_port", ollama, "flag --server-ollama-port" if ollama else "default"),
    ]
    status = StatusResult(state="ready", address=f"http://{host}:{port if at is None else at}")
    _, changed = plan(shown, status, flags)
    return [line.partition(":")[0] for line in changed]


def test_a_relative_model_path_survives_a_restart_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: Ports
) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMANTIC_MODELS_DIR", str(tmp_path / "models"))
    started = load_settings(flags={"mlx.model_id": "./tiny"})
    running = [ConfigValue(one.name, one.value, one.origin) for one in effective(started)]
    port = ports.taken()
    status = StatusResult(state="ready", address=f"http://{LOCAL}:{port}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    flags, changed = plan(running, status, {})
    assert (flags["mlx.model_id"], changed) == (str(model), [])
    (model / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        plan(running, status, {})


@pytest.mark.parametrize("host", [LOCAL, "0.0.0.0", "localhost"])
def test_ports_that_the_daemon_itself_holds_do_not_keep_it_from_another_host(ports: Ports, host: str) -> None:
    port, ollama = ports.taken(), ports.taken()
    changed = [] if host == LOCAL else ["server.host"]
    assert restart({"server.host": host}, port=port, ollama=ollama) == changed
    assert restart({"server.host": LOCAL}, host=host, port=port, ollama=ollama) == changed


def test_ports_that_the_daemon_itself_holds_may_change_places(ports: Ports) -> None:
    port, ollama = ports.taken(), ports.taken()
    swapped: dict[str, object] = {"server.port": ollama, "server.ollama_port": port}
    assert restart(swapped, port=port, ollama=ollama) == ["server.port", "server.ollama_port"]
    assert restart({"server.port": port}, port=0, at=port) == ["server.port"], "it found that one itself"


@pytest.mark.parametrize("which", ["server.port", "server.ollama_port"])
def test_another_programs_port_is_refused_whichever_of_the_two_it_is(ports: Ports, which: str) -> None:
    port, ollama, foreign = ports.taken(), ports.taken(), ports.taken()
    with pytest.raises(DaemonError, match=f":{foreign}: another program listens there"):
        restart({which: foreign}, port=port, ollama=ollama)
    with pytest.raises(DaemonError, match=f":{foreign}: another program listens there"):
        restart({which: foreign, "server.host": "0.0.0.0"}, port=port)
    assert restart({which: ports.free()}, port=port, ollama=ollama) == [which]


def test_a_host_that_is_not_this_machines_is_refused_though_the_port_is_the_daemons(ports: Ports) -> None:
    with pytest.raises(DaemonError, match=r"cannot listen on 192\.0\.2\.1"):
        restart({"server.host": "192.0.2.1"}, port=ports.taken())
    with pytest.raises(DaemonError, match=r"cannot listen on 192\.0\.2\.1"):
        restart({"server.host": "192.0.2.1"}, host="0.0.0.0", port=ports.taken())
