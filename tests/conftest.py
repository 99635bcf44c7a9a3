"""The setup of every test: its own folders, no user's settings, repeatable property tests.

No test may read or write the user's real caches, sockets, models or settings; it never has to ask for that.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from semanticd.adapters.mlx.platform.blas import load_fast_blas

# As the daemon does, before a test imports MLX, whose own BLAS takes several times as long for a prompt.
load_fast_blas()

REPOSITORY = Path(__file__).resolve().parent.parent

# Deadlines measure the machine, not the code; CI must fail for the same reason twice.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# Read before the settings below are cleared: `make` names the folder that demo, tests and benchmark share.
_MODELS_DIR = Path(os.environ.get("SEMANTIC_MODELS_DIR") or REPOSITORY / ".cache" / "models")


# The tests whose paths give the number that CI holds; tracing the others too makes them twice as slow.
_TRACED = tuple(
    REPOSITORY / "tests" / folder
    for folder in (
        "unit/domain",
        "unit/application",
        "unit/control",
        "integration/engine",
        "integration/services",
    )
)


def pytest_collection_finish() -> None:
    """Leave the tests themselves, and all that they import, out of every search for cycles from now on.

    They are a million and a half objects that stay: to look through them takes half a second each time.
    """
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k "not WithModel"`, as the system's description has it, leave out what needs a real model."""
    if item.get_closest_marker("model") is not None:
        item.extra_keyword_matches.add("WithModel")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Trace only the tests of the rooms whose coverage is held.

    pytest-cov's own marker for that has no effect in the processes of pytest-xdist: it starts coverage there twice.
    """
    if any(folder in item.path.parents for folder in _TRACED):
        yield
        return
    tracer, thread_tracer = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]  # as threading itself begins
    yield
    sys.settrace(tracer)
    threading.settrace(thread_tracer)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The one folder that tests fetch models into; it outlives the run, so that nothing is fetched twice."""
    _MODELS_DIR.mkdir(parents=True, exist_ok=True)
    return _MODELS_DIR


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings() -> Iterator[None]:
    """Hide the user's settings and home from the whole run, subprocesses included."""
    # Not pytest's own temporary folder: its path is longer than a Unix socket's may be on macOS (104 bytes).
    home = Path(tempfile.mkdtemp(prefix="smt-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SEMANTIC_"):
                patch.delenv(name)
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_RUNTIME_DIR", str(home))
        yield
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """Let programs that tests start be interrupted: in a shell's background SIGINT is ignored, also by children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every `async def test_…` on asyncio, the event loop of the daemon and of its clients."""
    return "asyncio"


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A folder like `tmp_path` whose path is short enough for a Unix socket on every platform."""
    path = Path(tempfile.mkdtemp(prefix="smt-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
