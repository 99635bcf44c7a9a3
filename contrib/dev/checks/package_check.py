"""Builds sdist and wheel as a release would, looks into them, installs the wheel where nothing else is, and tries it.

    make package-check                       # all of it, about a minute
    python contrib/dev/checks/package_check.py

Each step prints what it found; the first that fails ends the run with status 1. Steps that need a network and have none
say so and are skipped; the others must pass. The built files are left in dist/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DIST = ROOT / "dist"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACOS = "14.0"
TOOLS = ("build>=1.2,<2", "uv>=0.9,<1")
SDIST_MUST_HAVE = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
    "mkdocs.yml",
    "pyproject.toml",
    "docs/index.md",
    "docs/metrics.md",
    "contrib/examples/demo.py",
    "contrib/dev/setup.sh",
    "contrib/grafana/semanticd.json",
    "contrib/systemd/semanticd.service",
    "contrib/launchd/semanticd.daemon.plist",
    "contrib/completions/semanticd.bash",
    "tests/conftest.py",
    ".ci/run",
)
NEVER = ("__pycache__", ".pyc", "node_modules", ".cache/", ".env", ".sqlite", ".DS_Store")
WHEEL_ONLY_TOPS = {"semanticd", "semantic_tui"}


class PackagingError(Exception):
    """A step failed; the message says which and why."""


def main() -> int:
    """Run all steps; returns the exit status."""
    parser = argparse.ArgumentParser(description="Check sdist, wheel and dependencies as a release would.")
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semanticd-package-") as folder:
        try:
            run_all(Path(folder))
        except PackagingError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    return 0


def run_all(folder: Path) -> None:
    """Run the steps in order."""
    tools = environment(folder / "tools", *TOOLS)
    step("build sdist, and the wheel from it", lambda: build(tools))
    sdist, wheel = the_one("*.tar.gz"), the_one("*.whl")
    step(f"look into {sdist.name}", lambda: look_into_sdist(sdist))
    step(f"look into {wheel.name}", lambda: look_into_wheel(wheel))
    step("install the wheel in a clean environment and try it", lambda: smoke(folder, tools, wheel))
    step(f"a macOS {MACOS} arm64 wheel of every dependency", lambda: on_every_python(tools))


def step(what: str, deed: object) -> None:
    """Do one thing and print what it found and how long it took."""
    began = time.monotonic()
    assert callable(deed)
    found = deed()
    print(f"ok    {what}: {found} ({time.monotonic() - began:.0f} s)", flush=True)


def run(command: Sequence[str | Path], **env: str) -> str:
    """Run a command and return its stdout.

    Raises:
        PackagingError: The command failed; the message has its last lines.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise PackagingError(
            f"`{' '.join(str(part) for part in command)}` ended with {done.returncode}:\n{tail}"
        )
    return done.stdout


def environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment with these packages and return its folder of programs."""
    run([sys.executable, "-m", "venv", folder])
    programs = folder / "bin"
    if packages:
        run(
            [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        )
    return programs


def build(tools: Path) -> str:
    """Build into dist/: the wheel from the sdist, each in an environment of its own."""
    shutil.rmtree(DIST, ignore_errors=True)
    run([tools / "python", "-m", "build", "--outdir", DIST, ROOT])
    return ", ".join(f"{path.name} {path.stat().st_size // 1024} KiB" for path in sorted(DIST.iterdir()))


def the_one(pattern: str) -> Path:
    """Return the only built file of a kind."""
    found = list(DIST.glob(pattern))
    if len(found) != 1:
        raise PackagingError(f"expected one {pattern} in {DIST}, found {len(found)}")
    return found[0]


def tracked(*folders: str) -> set[str]:
    """Return the files that git knows below these folders."""
    return set(run(["git", "ls-files", "--", *folders]).splitlines())


def look_into_sdist(path: Path) -> str:
    """Check that the sdist holds what is needed to build, test and read, and nothing that was left lying about."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in SDIST_MUST_HAVE if name not in names]
    missing += sorted(name for name in tracked("semanticd", "semantic_tui", "tests") if name not in names)
    complain(missing, stray(names))
    return f"{len(names)} files, nothing missing, nothing stray"


def look_into_wheel(path: Path) -> str:
    """Check that the wheel holds both packages whole, their data files, entry points and licence."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    missing = sorted(tracked(*WHEEL_ONLY_TOPS) - names)
    missing += [
        name for name in ("semanticd", "semantic", "semantic-tui") if f"\n{name} = " not in entry_points
    ]
    missing += [extra for extra in ("cpu", "cuda", "otel") if f"Provides-Extra: {extra}" not in metadata]
    missing += [] if any("licenses/LICENSE" in name for name in names) else ["LICENSE"]
    tops = {name.partition("/")[0] for name in names} - WHEEL_ONLY_TOPS - {info}
    complain(missing, [*stray(names), *sorted(tops)])
    return f"{len(names)} files, three programs, nothing missing, nothing stray"


def stray(names: set[str]) -> list[str]:
    """Return what has no place in a release."""
    return sorted(name for name in names if any(part in name for part in NEVER))


def complain(missing: Sequence[str], surplus: Sequence[str]) -> None:
    """Raise `PackagingError` when anything is missing or too much."""
    if missing or surplus:
        raise PackagingError(
            f"missing: {', '.join(missing) or 'nothing'}; stray: {', '.join(surplus) or 'nothing'}"
        )


def smoke(folder: Path, tools: Path, wheel: Path) -> str:
    """Install the wheel alone, and run its programs in an empty home."""
    run([tools / "uv", "venv", "--quiet", "--python", sys.executable, folder / "clean"])
    programs = folder / "clean" / "bin"
    pins = ["--constraint", ROOT / "constraints.txt"]
    index = ["--link-mode", "copy", *index_options()]
    run([tools / "uv", "pip", "install", "--quiet", "--python", programs / "python", *index, *pins, wheel])
    home = folder / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "SEMANTIC_RUNTIME_DIR": str(home / "run"),
        "SEMANTIC_MODELS_DIR": str(home / "models"),
        "SEMANTIC_LOG_DIR": str(home / "logs"),
    }
    expected_version = run([sys.executable, "-c", "import semanticd; print(semanticd.__version__)"]).strip()
    expect([programs / "semanticd", "version"], env, status=0, says=f"semanticd {expected_version}")
    expect([programs / "semantic", "version"], env, status=0, says=expected_version)
    expect([programs / "semanticd", "status"], env, status=3, says="semanticd start")
    expect([programs / "semanticd", "config"], env, status=0, says="cache_budget_mb")
    expect([programs / "semanticd", "models", "list"], env, status=0, says="smollm2-135m")
    expect([programs / "semantic-tui", "--help"], env, status=0, says="usage")
    return "version, status (3), config, models and the dashboard's help answer"


def expect(command: Sequence[str | Path], env: dict[str, str], *, status: int, says: str) -> None:
    """Run an installed program away from the checkout.

    Raises:
        PackagingError: The program failed, or printed something else.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=env["HOME"],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode != status or says.lower() not in said.lower():
        raise PackagingError(
            f"`{Path(command[0]).name} {' '.join(str(part) for part in command[1:])}` ended with {done.returncode} "
            f"(expected {status}) and said: {said[-600:]!r} (expected {says!r} in it)"
        )


def on_every_python(tools: Path) -> str:
    """Do `macos_wheels` for all Pythons at once: it waits for the network most of the time."""
    with ThreadPoolExecutor(len(PYTHONS)) as pool:
        found = pool.map(lambda version: macos_wheels(tools, version), PYTHONS)
        return ", ".join(f"Python {version}: {what}" for version, what in zip(PYTHONS, found, strict=True))


def macos_wheels(tools: Path, version: str) -> str:
    """Resolve all dependencies for a Mac from wheels only; fails where one exists as source only or not at all.

    pip's own `--platform` leaves the markers to the machine it runs on; uv's resolver takes them from the target.
    """
    resolved = run(
        [
            *(tools / "uv", "pip", "compile", ROOT / "pyproject.toml", "--extra", "otel", "--quiet"),
            *("--python-platform", "aarch64-apple-darwin", "--python-version", version),
            *(
                "--only-binary",
                ":all:",
                "--no-header",
                "--no-annotate",
                "--constraint",
                ROOT / "constraints.txt",
            ),
            *index_options(),
        ],
        MACOSX_DEPLOYMENT_TARGET=MACOS,
    )
    names = [line for line in resolved.splitlines() if "==" in line]
    if not any(line.startswith("mlx-metal==") for line in names):
        raise PackagingError(f"Python {version} on macOS would get no Metal back end: {', '.join(names)}")
    return f"{len(names)} packages"


def index_options() -> Iterator[str | Path]:
    """Yield uv's options for the indexes and wheel folders that pip is configured with."""
    for name, option in (("PIP_INDEX_URL", "--index-url"), ("PIP_EXTRA_INDEX_URL", "--extra-index-url")):
        for value in os.environ.get(name, "").split():
            yield from (option, value)
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        if Path(folder).is_dir():
            yield from ("--find-links", folder)


if __name__ == "__main__":
    sys.exit(main())
