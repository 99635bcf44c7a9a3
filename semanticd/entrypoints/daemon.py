"""The daemon's life, top to bottom: lock, listen, load, serve, drain, persist, leave.

Order matters twice. The fast BLAS is loaded before anything imports `mlx.core`; and what can fail cheaply (a second
daemon, a taken port, a folder that cannot be written) fails before a model is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanticd import __version__
from semanticd.adapters.config import Effective, Loaded, effective, load_settings
from semanticd.adapters.control.connection import Identity
from semanticd.adapters.control.event_hub import EventHub
from semanticd.adapters.control.server import ControlServer
from semanticd.adapters.control.services import DoctorService, Services
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.event_loop import new_event_loop
from semanticd.adapters.logs import LOG_FILE, LogOptions, Logs
from semanticd.adapters.process import (
    PID_FILE,
    PidFile,
    bind_listener,
    is_supervised,
    notify_supervisor,
)
from semanticd.adapters.service import LABEL
from semanticd.application.ports.telemetry import Log
from semanticd.control.address import SocketPathTooLongError, socket_path_in
from semanticd.control.private_files import UMASK, check_shared_folder
from semanticd.control.terminal_text import many_lines
from semanticd.domain.errors import NO_MODEL_LOADED, ConfigurationError, DaemonError, SemanticError
from semanticd.entrypoints.upkeep import Upkeep, heap_budget

if TYPE_CHECKING:  # its imports take seconds and need the BLAS loaded first
    from semanticd.entrypoints.ranks_upkeep import RanksUpkeep

_DRAIN_POLL_S = 0.05
_HTTP_GRACE_S = 2
_FAILED, _WRONG_SETTINGS, _INTERRUPTED = 1, 2, 130
ENDING_LIMIT_S = 80.0
"""Maximum time for shutting down after the last request, in seconds: time to write several GiB."""


def main(flags: Mapping[str, Any] | None = None, *, files: FileSystem | None = None) -> int:
    """Run the daemon in the foreground until it is stopped; returns the exit status.

    `flags` are settings by dotted name. Errors are reported on stderr: wrong settings end with status 2, any other with
    status 1. The warm tier works through `files`, which is where a test gives it a slow disk.
    """
    try:
        loaded = load_settings(flags=flags)
        for line in loaded.explained():
            _tell(f"semanticd: {line}")
        return run(loaded, files=files)
    except SemanticError as error:
        _tell(f"semanticd: {error.message}")
        return _WRONG_SETTINGS if isinstance(error, ConfigurationError) else _FAILED


def run(loaded: Loaded, *, files: FileSystem | None = None) -> int:
    """Run the daemon with these settings; see `main`."""
    settings = loaded.settings
    with contextlib.ExitStack() as stack:
        hub = EventHub()
        options = LogOptions(
            level=settings.server.log_level,
            format=settings.server.log_format,
            folder=settings.paths.log_dir,
            console=settings.server.log_console,
        )
        logs = Logs(options, bus=hub)
        stack.callback(logs.close)
        _check_models_folder(settings.paths.models_dir)
        _check_socket_path(settings.paths.runtime_dir)
        pid_file = PidFile.acquire(settings.paths.runtime_dir / PID_FILE)
        stack.callback(pid_file.release)
        listener = bind_listener(settings.server.host, settings.server.port)
        stack.callback(listener.close)
        listeners = [listener]
        if settings.server.ollama_port is not None:
            listeners.append(bind_listener(settings.server.host, settings.server.ollama_port))
            stack.callback(listeners[-1].close)
        try:
            life = _Life(loaded, hub=hub, logs=logs, listeners=listeners, files=files)
            return _run_to_its_end(life.live())
        except SemanticError:
            raise
        except Exception as error:
            # A defect. Users get one line; the cause is in the log.
            logs.get().error("daemon_failed", error=repr(error), traceback=traceback.format_exc())
            raise DaemonError(
                f"the daemon failed: {type(error).__name__}: {error}; the traceback is in "
                f"{settings.paths.log_dir / LOG_FILE}; please report it"
            ) from error


def _check_models_folder(folder: Path) -> None:
    try:
        check_shared_folder(folder)
    except OSError as error:
        raise DaemonError(
            f"cannot use the models folder: {error.strerror or error}; or set SEMANTIC_MODELS_DIR to another folder"
        ) from error


def _check_socket_path(runtime_dir: Path) -> None:
    try:
        socket_path_in(runtime_dir)
    except SocketPathTooLongError as error:
        raise DaemonError(str(error)) from error


def _run_to_its_end(life: Coroutine[Any, Any, int]) -> int:
    """Like `asyncio.run`, but without waiting for its worker threads: one may hang in a download for hours.

    Such a thread ends with the process (`leave`), and the download continues where it stopped at the next start.
    """
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(life)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


@contextlib.contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Import inside: that leaves no garbage, and looking for some in 1,200 modules takes a tenth of a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _tell(text: str) -> None:
    """Narrate on the terminal."""
    sys.stderr.write(f"{many_lines(text)}\n")


@dataclass(frozen=True, slots=True)
class SettingsInEffect:
    """Every setting with its value and origin, and the file that was read."""

    settings: tuple[Effective, ...]
    config_file: str


@dataclass(frozen=True, slots=True)
class Ending:
    """The progress of a shutdown: the daemon's state, unanswered requests, and blocks that the disk refused."""

    state: str
    num_requests: int
    num_unsaved_agents: int
    num_unsaved_responses: int


class _Life:
    """One run of the daemon."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        hub: EventHub,
        logs: Logs,
        listeners: Sequence[socket.socket],
        files: FileSystem | None,
    ) -> None:
        self._loaded = loaded
        self._files = files
        self._settings = loaded.settings
        self._hub = hub
        self._logs = logs
        self._log = logs.get()
        self._listeners = listeners
        self.state = "starting"
        self._stop = asyncio.Event()
        self._stop_now = False
        self._drain_timeout_s: float = loaded.settings.server.drain_timeout_s
        self._draining: asyncio.Task[None] | None = None

    async def live(self) -> int:
        """Start in order, wait, stop in reverse."""
        # Only now: these imports take seconds and need the BLAS loaded first.
        from semanticd.adapters.mlx.platform.blas import load_fast_blas
        from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm
        from semanticd.adapters.mlx.platform.heap import return_freed_memory

        return_freed_memory(budget_bytes=heap_budget(self._settings))
        with _nothing_to_collect():
            blas = load_fast_blas()
            import_mlx_lm()
            from semanticd.entrypoints import assembly

        host, port = self._listeners[0].getsockname()[:2]
        address = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
        path = socket_path_in(self._settings.paths.runtime_dir)
        facts = {"address": address, "socket": str(path), "blas": blas.name, "host": host, "port": port}
        self._daemon = assembly.assemble(
            self._settings,
            bus=self._hub,
            log=self._log,
            state=lambda: self.state,
            facts=facts,
            files=self._files,
        )
        self._log.info(
            "daemon_starting", version=__version__, pid=os.getpid(), blas=blas.name, address=address
        )
        upkeep = Upkeep(self._daemon, self._settings, log=self._log)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            control = ControlServer(
                path=path,
                services=self._services(),
                identity=Identity(__version__, os.getpid()),
                log=self._log,
                metrics=self._daemon.metrics,
            )
            await control.start()
            stack.push_async_callback(control.close)
            stack.enter_context(self._signals())
            self._daemon.engine.start()
            ranks = self._ranks_upkeep()
            if ranks is not None:
                ranks.start()
            load = self._daemon.models.load if ranks is None else ranks.load_when_joined
            loading = asyncio.create_task(load(assembly.first_model(self._settings)))
            stack.callback(loading.cancel)
            # The imports hold Python's lock, and most of the model's loading does not.
            http = await asyncio.to_thread(self._http)
            serving = asyncio.create_task(http.serve(sockets=list(self._listeners)))
            stack.push_async_callback(self._end_http, http, serving)
            stack.enter_context(upkeep.alive())
            failed = await self._until_loaded(loading, upkeep)
            if failed is not None:
                return failed
            stack.enter_context(upkeep.serving())
            if ranks is not None:
                stack.enter_context(ranks.watching())
            await self._stop.wait()
            await self._drain()
            end_within(ENDING_LIMIT_S, log=self._log)
        return 0

    def _ranks_upkeep(self) -> RanksUpkeep | None:
        """Return what looks after the machines that compute with this one; None where it computes alone."""
        if self._daemon.ranks is None:
            return None
        from semanticd.entrypoints.ranks_upkeep import RanksUpkeep

        return RanksUpkeep(self._daemon, self._daemon.ranks, self._settings, log=self._log)

    def _http(self) -> Any:
        """Return the HTTP server, which is not served yet; its imports take a third of a second."""
        with _nothing_to_collect():
            from semanticd.entrypoints.http_edge import http_server

        return http_server(self._daemon, self._settings, log=self._log, state=lambda: self.state)

    async def _until_loaded(self, loading: asyncio.Task[Any], upkeep: Upkeep) -> int | None:
        """Wait for the first model; returns an exit status when that ends the daemon."""
        from semanticd.entrypoints.assembly import first_model

        name = first_model(self._settings)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not loading.done():
            # Stopped while loading: what was downloaded so far stays and is resumed next time.
            loading.cancel()
            return 0
        try:
            loading.result()
        except SemanticError as error:
            self._log.error("first_model_failed", model=name, reason=error.message)
            _tell(f"semanticd: {error.message}")
            if not is_supervised(LABEL):
                return _FAILED
            # Started again, it would fail again, every few seconds: it stays, so that its status has the reason and
            # another model can be loaded.
            self.state = "ready"
            notify_supervisor(f"READY=1\nSTATUS=no model is loaded: {error.message}")
            return None
        await asyncio.to_thread(upkeep.settle)
        self._say_where_nothing_is_kept()
        self.state = "ready"
        # Its user may have unloaded the first model while it was waited for, or loaded another.
        serving = ", ".join(self._daemon.engine.models)
        notify_supervisor(f"READY=1\nSTATUS={f'serving {serving}' if serving else NO_MODEL_LOADED}")
        self._log.info("daemon_ready", **({"model": serving} if serving else {}))
        return None

    def _say_where_nothing_is_kept(self) -> None:
        """Warn where the disk's cap is smaller than one block of the model: then no whole block is ever written."""
        cap = self._daemon.warm.stats().cap_bytes
        for model in self._daemon.engine.models.values():
            spec = model.runner.spec
            block_bytes = spec.stored_bytes(spec.block_tokens)
            if cap is not None and block_bytes > cap and self._settings.agent.write_policy != "off":
                self._log.warning(
                    "disk_cap_below_a_block",
                    model=model.model_id,
                    cap_bytes=cap,
                    block_bytes=block_bytes,
                    consequence="no whole block is kept on disk; raise SEMANTIC_AGENT_CACHE_MAX_GB",
                )

    # Ending.

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._log.warning("stopped_at_once")
            leave(_INTERRUPTED)
        _tell("semanticd: finishing active requests; press Ctrl-C again to quit immediately")
        self._stop.set()

    async def _drain(self) -> None:
        self.state = "draining"
        notify_supervisor("STOPPING=1")
        self._daemon.engine.drain()
        if self._stop_now:
            return
        deadline = asyncio.get_running_loop().time() + self._drain_timeout_s
        while self._daemon.engine.num_unanswered and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 (a thread's count)
            await asyncio.sleep(_DRAIN_POLL_S)
        if self._daemon.engine.num_unanswered:
            self._log.warning("drain_timed_out", num_requests=self._daemon.engine.num_unanswered)

    async def _end_http(self, http: Any, serving: asyncio.Task[None]) -> None:
        # Streams that still run end with their dialect's error before the server lets go of them.
        self.state = "stopped"
        await asyncio.to_thread(self._daemon.engine.stop)
        http.should_exit = True
        with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(serving, _HTTP_GRACE_S + 1)

    async def _close(self) -> None:
        from semanticd.entrypoints.bootstrap import close

        await asyncio.to_thread(close, self._daemon)
        self._log.info("daemon_stopped")

    # The daemon's own services for the control plane.

    def _services(self) -> Services:
        daemon = self._daemon
        return Services(
            status=daemon.status,
            agents=daemon.agents,
            chat=daemon.chat,
            models=daemon.models,
            cache=daemon.cache,
            requests=daemon.requests,
            history=daemon.history,
            config=self,
            doctor=self._doctor(),
            lifecycle=self,
            log=self._logs,
            events=self._hub,
        )

    def _doctor(self) -> DoctorService:
        from semanticd.adapters.peers.probe import PeerTree
        from semanticd.entrypoints.doctor import Doctor
        from semanticd.entrypoints.doctor_generation import generate_some

        daemon = self._daemon
        return Doctor(
            self._settings,
            generate=lambda: generate_some(daemon.generate),
            device=daemon.device,
            trees=lambda: [PeerTree(one.model, one.fingerprint, one.layout) for one in daemon.shared.trees()],
            ranks=None if daemon.ranks is None else daemon.ranks.facts,
            folder_problem=lambda: daemon.warm.stats().folder_problem,
        )

    async def show(self) -> SettingsInEffect:
        """Return the settings in effect."""
        return SettingsInEffect(tuple(effective(self._loaded)), str(self._loaded.config_file))

    async def drain(self, timeout_s: float | None = None) -> Ending:
        """Take no new requests; running ones finish."""
        self._daemon.engine.drain()
        self.state = "draining"
        if timeout_s is not None:
            self._drain_timeout_s = timeout_s
        return self._ending(self.state)

    async def shutdown(self, timeout_s: float | None = None, now: bool = False) -> Ending:
        """Drain (not if `now`), persist and exit."""
        self._stop_now = now
        if timeout_s is not None:
            self._drain_timeout_s = timeout_s
        self._stop.set()
        return self._ending("draining")

    def _ending(self, state: str) -> Ending:
        cache = self._daemon.status.cache()
        return Ending(
            state,
            self._daemon.engine.num_unanswered,
            num_unsaved_agents=cache.num_unsaved_agents,
            num_unsaved_responses=cache.num_unsaved_responses,
        )


def leave(status: int) -> None:
    """End the process without finalizing the interpreter.

    MLX keeps per-thread compile caches whose destructors take the GIL; if the interpreter finalizes while the engine's
    thread is still ending, the process aborts (seen with mlx 0.32). Everything of ours is closed before.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_within(seconds: float, *, log: Log, leave: Callable[[int], None] = leave) -> None:
    """End the process with status 1 if it still lives after so long; to be called on the event loop.

    A write may hang forever, on a network disk that is gone. The cache stands a kill at any moment: what was not
    written is computed again.
    """

    def give_up() -> None:
        log.error("ending_gave_up", after_s=seconds)
        _tell(
            f"semanticd: the cache was not written within {seconds:.0f} s; what is missing is computed again"
        )
        leave(1)

    asyncio.get_running_loop().call_later(seconds, give_up)


def serve(flags: Mapping[str, Any] | None = None, *, files: FileSystem | None = None) -> None:
    """Run the daemon and end the process with its status; see `main`."""
    # Before the first file: what this process and its libraries make is this user's alone.
    os.umask(UMASK)
    leave(main(flags, files=files))
