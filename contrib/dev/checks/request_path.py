"""Which files one chat request passes, in a real daemon: `python contrib/dev/checks/request_path.py [MODEL]`.

Starts a daemon (MODEL: a model's folder; without one, a tiny model of random weights), asks twice, and notes during
the second request each file of `semanticd/` of which a function is called, on all threads, between the request's
arrival and the end of its answer. Prints the files with what they are there for: `path`, `data` (only methods of
values are called), `telemetry` (logs, metrics, traces), `edge` (what every HTTP request passes) or `timer` (only
called by jobs that run at intervals, which may fall into a slow request); then the places where a call comes back to
the file it came from, and what can be counted without running: modules with one importer, constructors with many
arguments, rooms, floors and arrows. `--limit N` fails if more than N files are `path`, or a
call comes back. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import ast
import mmap
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

PACKAGE = f"{ROOT}{os.sep}semanticd{os.sep}"
TELEMETRY = (
    "adapters/logs", "adapters/telemetry/", "adapters/tracing", "adapters/request_traces/", "http/core/gen_ai",
    "http/core/recording", "application/ports/telemetry", "engine/metrics", "engine/trace", "engine/telemetry",
    "services/arrivals", "services/gauges", "services/history", "services/outcomes", "services/savings",
    "services/waits", "services/samples", "domain/packed_lines",
    "services/observations", "services/status", "services/plain", "generation/recorder", "services/agent_watch",
)  # fmt: skip
"""Beginnings of files that record what happens and decide nothing."""
EDGE = ("adapters/http/server", "adapters/http/strict_connection", "adapters/http/core/")
"""Beginnings of files that every HTTP request passes, whatever it asks for."""
VALUES = {"dataclass", "Struct", "NamedTuple", "Enum", "StrEnum", "IntEnum", "Protocol", "Exception"}
TIMERS = {
    "adapters/control/snapshots.py": "publish_snapshots",
    "adapters/disk/blocks/warm_store.py": "_rest",
    "adapters/disk/responses/archive.py": "_retry_while_idle",
    "adapters/mlx/platform/device.py": "pressure",
    "adapters/mlx/platform/heap.py": "trim",
    "application/services/history.py": "sample",
    "entrypoints/upkeep.py": "_trim_memory",
}
"""Functions that run at intervals of 0.25 to 2 s, whether or not a request is running, by file."""
KINDS = ("path", "data", "telemetry", "edge", "timer")
MOST_ARGUMENTS = 7
READY_WITHIN_S = 480.0
"""Maximum start time: tracing slows the start down, and so does a busy machine."""


# In the daemon's process.


def serve(folder: Path) -> None:
    """Run `semanticd serve`, and note calls while the first byte of a shared file is set."""
    flag = mmap.mmap(os.open(folder / "flag", os.O_RDWR), 1)
    calls = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    seen: set[object] = set()

    def note(what: object, line: str) -> None:
        if what not in seen:
            seen.add(what)
            os.write(calls, line.encode())

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or flag[0] == 0 or not is_ours(code):
            return
        kind = "timer" if by_timer(frame) else "call"
        note((kind, code), f"{kind}\t{short(code)}\t{code.co_firstlineno}\t{code.co_name}\n")
        if not code.co_name.startswith("<") and (back := came_back(frame)) is not None:
            way = " > ".join(short(one) for one in back)
            note((code, way), f"back\t{way}\t{code.co_firstlineno}\t{code.co_name}\n")

    threading.setprofile(profile)
    # The main thread imports thousands of modules first; its calls are followed from this signal on.
    signal.signal(signal.SIGUSR1, lambda number, frame: sys.setprofile(profile))
    sys.argv = ["semanticd", "serve"]
    runpy.run_module("semanticd", run_name="__main__", alter_sys=True)


def is_ours(code: CodeType) -> bool:
    """Return whether code is a function of the daemon's, as opposed to the body of a module or class."""
    return code.co_filename.startswith(PACKAGE) and bool(code.co_flags & 1) and code.co_name != "<module>"


def short(code: CodeType) -> str:
    """Return a file as it is called inside of the package."""
    return Path(code.co_filename[len(PACKAGE) :]).as_posix()


def by_timer(frame: FrameType | None) -> bool:
    """Return whether a call is made by one of `TIMERS`, directly or not."""
    while frame is not None:
        code = frame.f_code
        if is_ours(code) and TIMERS.get(short(code)) == code.co_name:
            return True
        frame = frame.f_back
    return False


def came_back(frame: FrameType) -> list[CodeType] | None:
    """Return the way of a call that comes back to the file of one of its callers, by way of another file."""
    way = [frame.f_code]
    caller = frame.f_back
    while caller is not None:
        code = caller.f_code
        if is_ours(code) and code.co_filename != way[-1].co_filename:
            way.append(code)
            if code.co_filename == frame.f_code.co_filename:
                return way[::-1]
        caller = caller.f_back
    return None


# In the check's process.


def traced(model: Path | None) -> list[list[str]]:
    """Ask a daemon for a chat answer; returns the fields of what it noted."""
    from tests.fakes.daemon_process import DaemonProcess
    from tests.fakes.tiny_folder import write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "flag").write_bytes(b"\0")
        path = model or write_tiny_model(home / "tiny")
        command = (str(Path(__file__)), "--serve", folder)
        daemon = DaemonProcess(
            home,
            models_dir=home / "models",
            command=command,
            SEMANTIC_MLX_MODEL_ID=str(path),
            PYTHONPATH=str(ROOT),
        )
        daemon.start(within_s=READY_WITHIN_S)
        try:
            os.kill(daemon.pid, signal.SIGUSR1)
            said: list[dict[str, str]] = [{"role": "user", "content": "What is a list? " * 20}]
            answer = ask(daemon, said)
            said += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And a set?"}]
            daemon.wait_until_written()
            set_flag(home, b"\1")
            ask(daemon, said)
            set_flag(home, b"\0")
        finally:
            daemon.stop()
        return [line.split("\t") for line in (home / "calls").read_text().splitlines()]


def set_flag(folder: Path, value: bytes) -> None:
    """Set the byte that the daemon has mapped; it would end with SIGBUS at a read while the file is empty."""
    with (folder / "flag").open("r+b") as file:
        file.write(value)


def ask(daemon: Any, messages: list[dict[str, str]]) -> str:
    """Return the answer's text, as one agent asks for it."""
    answer = daemon.chat(messages, agent="traced", model="default", max_tokens=8)
    return str(answer["choices"][0]["message"]["content"])


def kind_of(file: str, lines: set[int]) -> str:
    """Return what a file is on the path for, by its name and the lines of the functions that were called."""
    if file.startswith(TELEMETRY) or any(f"/{one}" in f"/{file}" for one in TELEMETRY):
        return "telemetry"
    if file.startswith(EDGE):
        return "edge"
    return "data" if lines <= lines_of_values(file) else "path"


def lines_of_values(file: str) -> set[int]:
    """Return the first lines of methods of frozen dataclasses, structs, enumerations and errors."""
    found: set[int] = set()
    for node in ast.walk(ast.parse((ROOT / "semanticd" / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            words = " ".join(ast.unparse(one) for one in [*node.decorator_list, *node.bases])
            is_value = any(word in words for word in VALUES) or words.endswith("Error")
            if is_value and ("dataclass" not in words or "frozen=True" in words):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        found |= {inner.lineno, *(one.lineno for one in inner.decorator_list)}
    return found


def modules() -> dict[str, ast.Module]:
    """Return the package's modules by their dotted names."""
    found = {}
    for path in sorted((ROOT / "semanticd").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(tree: ast.Module, names: set[str]) -> set[str]:
    """Return those of the modules that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & names


def wide_constructors(trees: dict[str, ast.Module]) -> list[str]:
    """Return the classes whose constructors take more than `MOST_ARGUMENTS` arguments."""
    found = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                        given = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                        if len(given) - 1 > MOST_ARGUMENTS:
                            found.append(f"{name}.{node.name}")
    return found


def drawn(imports: dict[str, set[str]], package: str) -> tuple[int, int, int]:
    """Return the rooms of a package, its floors, and the arrows between the rooms."""
    depth = package.count(".") + 1
    below: dict[str, set[str]] = defaultdict(set)
    for name, others in imports.items():
        if name.startswith(f"{package}.") and name.count(".") >= depth:
            room = name.split(".")[depth]
            below[room] |= {o.split(".")[depth] for o in others if o.startswith(f"{package}.")} - {room}
            for other in below[room]:
                below.setdefault(other, set())

    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in below[room]), default=0)

    return len(below), max(map(floor, below)), sum(map(len, below.values()))


def report(lines: list[list[str]]) -> Iterator[str]:
    """Yield the lines of the report on what was noted."""
    calls: dict[str, dict[int, str]] = defaultdict(dict)
    timed: dict[str, dict[int, str]] = defaultdict(dict)
    for kind, where, line, function in lines:
        if kind in ("call", "timer"):
            (calls if kind == "call" else timed)[where][int(line)] = function
    kinds = {file: kind_of(file, set(called)) for file, called in calls.items()}
    for file in timed.keys() - calls.keys():
        calls[file], kinds[file] = timed[file], "timer"
    for file in sorted(calls, key=lambda one: (kinds[one], one)):
        names = sorted(set(calls[file].values()))
        yield f"{kinds[file]:10}{file:55}{len(calls[file]):3}  {', '.join(names[:6])}"
    backs = sorted({(way, function) for kind, way, _, function in lines if kind == "back"})
    shown = [(way, function) for way, function in backs if kinds[way.split(" > ")[0]] in ("path", "data")]
    yield from (f"comes back: {way} ({function})" for way, function in shown)
    trees = modules()
    imports = {name: imports_of(tree, set(trees)) for name, tree in trees.items()}
    importers = {name: sum(name in others for others in imports.values()) for name in trees}
    single = [n for n, number in importers.items() if number == 1 and n.startswith("semanticd.application.")]
    yield f"modules of application with one importer: {len(single)}"
    yield f"constructors with more than {MOST_ARGUMENTS} arguments: {len(wide_constructors(trees))}"
    for package in ("semanticd.application", "semanticd.adapters.http"):
        rooms, floors, arrows = drawn(imports, package)
        yield f"{package}: {rooms} rooms, {floors} floors, {arrows} arrows"
    yield f"calls that come back: {len(shown)}"
    counted = {kind: list(kinds.values()).count(kind) for kind in KINDS}
    yield f"files: {len(kinds)}, of them {', '.join(f'{kind} {number}' for kind, number in counted.items())}"


def main() -> None:
    """Trace, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help="a model's folder")
    parser.add_argument("--limit", type=int, help="fail if more files are on the path, or a call comes back")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    printed = list(report(traced(options.model)))
    print("\n".join(printed))
    if options.limit is not None:
        if sum(line.startswith("path ") for line in printed) > options.limit:
            sys.exit(f"more than {options.limit} files are on the path")
        if any(line.startswith("comes back:") for line in printed):
            sys.exit("a call comes back to the file that it came from")


if __name__ == "__main__":
    main()
