"""A disk that takes nothing: `python contrib/dev/checks/full_disk.py [CASE …]` (root: it mounts volumes of 200 MB).

Each case has a daemon of its own with a tiny model of random weights, whose cache, log and runtime folder lie on a
volume that stops taking anything: another program fills it, it has no file left to give, or it becomes read-only; in
the middle of traffic, or before a start. Meanwhile agents take turns, streamed and whole, others store responses, and
lists are read. No request may fail, what is kept free stays free while only the cache writes, and once there is room
again blocks, agents and responses are stored as if nothing had been, which a restart proves. Where a daemon cannot
start (no file can be made for its socket) it says why and what to do, and starts when the volume is mended. Prints
JSON; exit status 1 where anything is wrong. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import httpx

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.full_volume import fill
from tests.fakes.tiny_folder import write_tiny_model

VOLUME_BYTES = 200_000_000
RESERVE_BYTES = 20_000_000
_NOT_BLOCKS_BYTES = 8_000_000
"""What logs, databases and the ballast may take of the reserve, which is kept from blocks."""
NUM_INODES = 600
PHASE_S = 8.0


@dataclass
class Volume:
    """A mounted volume of its own, and what another program does to it."""

    path: Path
    _filler: Path | None = None

    @classmethod
    @contextlib.contextmanager
    def mounted(cls, path: Path, spoil: str, when: str) -> Iterator[Volume]:
        """Mount it empty; it is gone afterwards."""
        path.mkdir()
        if (spoil, when) == ("set_read_only", "meanwhile"):
            # Only a file system that finds an error refuses writing to files that are open.
            image = path.with_suffix(".image")
            with image.open("wb") as file:
                file.truncate(VOLUME_BYTES)
            subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-F", str(image)], check=True)
            command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(path)]
        else:
            options = f"size={VOLUME_BYTES},mode=700"
            options += f",nr_inodes={NUM_INODES}" if spoil == "use_inodes" else ""
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        subprocess.run(command, check=True)
        try:
            yield cls(path)
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)

    @property
    def free_bytes(self) -> int:
        """Bytes that may still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def leave(self, num_bytes: int) -> None:
        """Take what is free but for so many bytes, so that the cache reaches its reserve soon."""
        with (self.path / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - num_bytes)

    def fill(self) -> None:
        """Take every free byte."""
        self._filler = fill(self.path)

    def use_inodes(self) -> None:
        """Take every file that the volume may have."""
        self._filler = self.path / "many"
        self._filler.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            for number in range(10 * NUM_INODES):
                (self._filler / str(number)).touch()

    def set_read_only(self) -> None:
        """Let it refuse all writing."""
        source = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.path)], capture_output=True, text=True, check=True
        ).stdout.strip()
        if source.startswith("/dev/loop"):
            Path("/sys/fs/ext4", Path(source).name, "trigger_fs_error").write_text("full_disk.py")
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)

    @property
    def needs_unmount(self) -> bool:
        """Whether it can be mended only while it is not in use."""
        return self.path.with_suffix(".image").exists()

    def mend(self) -> None:
        """Give the room back."""
        if self.needs_unmount:
            image = self.path.with_suffix(".image")
            subprocess.run(["umount", str(self.path)], check=True)
            subprocess.run(["fsck.ext4", "-p", "-f", str(image)], check=False, capture_output=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(self.path)], check=True)
            return
        subprocess.run(["mount", "-o", "remount,rw", str(self.path)], check=True)
        (self.path / "large").unlink(missing_ok=True)
        if self._filler is None:
            return
        if self._filler.is_dir():
            for file in self._filler.iterdir():
                file.unlink()
        else:
            self._filler.unlink()


@dataclass
class Traffic:
    """Agents that take turns, and what they were answered."""

    daemon: DaemonProcess
    phase: str = "before"
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    last_response: str | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Start the clients."""
        self._over.clear()
        for number in range(4):
            self._start(self._talk, f"agent-{number}", number % 2 == 1)
        self._start(self._store_responses)
        self._start(self._newcomers)
        self._start(self._look)

    def end(self) -> None:
        """Stop them."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _ask(self, what: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        phase = self.phase
        try:
            answer = httpx.request(method, f"{self.daemon.url}{path}", timeout=120, **options)
        except httpx.HTTPError as error:
            self.failures.append(f"{phase}: {what}: {error!r}")
            return None
        self.answers[phase, what, answer.status_code] += 1
        if answer.status_code >= 400 or '"error"' in answer.text[-400:]:
            self.failures.append(f"{phase}: {what}: {answer.status_code} {answer.text[-300:]}")
        return answer

    def _talk(self, agent: str, is_streamed: bool) -> None:
        turn, messages = 0, []
        while not self._over.is_set():
            if turn % 6 == 0:
                messages = [{"role": "user", "content": f"{agent}, topic {turn}: " + "tell me more. " * 150}]
            body = {"model": "default", "messages": messages, "max_tokens": 12, "stream": is_streamed}
            answer = self._ask(
                "stream" if is_streamed else "chat",
                "POST",
                "/v1/chat/completions",
                json=body,
                headers={"X-Session-ID": agent},
            )
            if answer is not None and is_streamed and not answer.text.rstrip().endswith("[DONE]"):
                self.failures.append(f"{self.phase}: stream: ended early: {answer.text[-200:]}")
            messages = [*messages, {"role": "assistant", "content": f"answer {turn}"}]
            messages.append({"role": "user", "content": f"turn {turn}: go on. " + "and on. " * 30})
            turn += 1

    def _store_responses(self) -> None:
        last = None
        while not self._over.is_set():
            body = {"model": "default", "input": "note this. " * 80, "max_output_tokens": 8}
            if last:
                body["previous_response_id"] = last
            answer = self._ask("response", "POST", "/v1/responses", json=body)
            last = answer.json().get("id") if answer is not None and answer.status_code == 200 else None
            if last:
                self.last_response = last
                self._ask("response read", "GET", f"/v1/responses/{last}")
            time.sleep(0.2)

    def _newcomers(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            body = {
                "model": "default",
                "messages": [{"role": "user", "content": f"{number}"}],
                "max_tokens": 4,
            }
            self._ask("anonymous", "POST", "/v1/chat/completions", json=body)
            time.sleep(0.2)

    def _look(self) -> None:
        while not self._over.is_set():
            self._ask("look", "GET", "/v1/agents?limit=50")
            self._ask("look", "GET", "/health/ready")
            self._ask("look", "GET", "/metrics")
            time.sleep(0.5)


def talked(daemon: DaemonProcess, agent: str) -> int:
    """Take two turns as a new agent and return how many tokens of the second came from the cache."""
    messages = [{"role": "user", "content": f"{agent}: " + "remember this. " * 300}]
    daemon.chat(messages, agent=agent, model="default")
    messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    return int(
        daemon.chat(messages, agent=agent, model="default")["usage"]["prompt_tokens_details"]["cached_tokens"]
    )


def again(daemon: DaemonProcess, agent: str) -> int:
    """Take the second turn again, and return how many tokens came from the cache."""
    messages = [{"role": "user", "content": f"{agent}: " + "remember this. " * 300}]
    messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    return int(
        daemon.chat(messages, agent=agent, model="default")["usage"]["prompt_tokens_details"]["cached_tokens"]
    )


def log_lines(daemon: DaemonProcess) -> Counter[str]:
    """Count warnings and errors by their event."""
    found: Counter[str] = Counter()
    for line in daemon.log.read_text(errors="replace").splitlines():
        if "warning" in line.lower() or "error" in line.lower() or "Traceback" in line:
            found[line[:160]] += 1
    return found


def run_case(home: Path, model: Path, spoil: str, when: str) -> dict[str, Any]:
    """Run one case; what is wrong is in `wrong`."""
    home.mkdir()
    with Volume.mounted(home / "volume", spoil, when) as volume:
        daemon = DaemonProcess(
            home,
            models_dir=home / "models",
            SEMANTIC_MLX_MODEL_ID=str(model),
            SEMANTIC_MLX_CACHE_BUDGET_MB="128",
            SEMANTIC_AGENT_CACHE_DIR=str(volume.path / "caches"),
            SEMANTIC_LOG_DIR=str(volume.path / "logs"),
            SEMANTIC_RUNTIME_DIR=str(volume.path / "run"),
            SEMANTIC_AGENT_DISK_RESERVE_GB=str(RESERVE_BYTES / 1024**3),
        )
        try:
            found = _through(daemon, volume, spoil, when)
        finally:
            daemon.kill()
        return {"case": f"{spoil} {when}", **found, "log": dict(log_lines(daemon).most_common(12))}


def _through(daemon: DaemonProcess, volume: Volume, spoil: str, when: str) -> dict[str, Any]:
    wrong: list[str] = []
    found: dict[str, Any] = {"wrong": wrong}
    traffic = Traffic(daemon)
    if when != "before a first start":
        daemon.start()
        talked(daemon, "early")
    if when == "before the start":
        daemon.stop()
    elif when == "before the start after a kill":
        daemon.kill()
    if when.startswith("before"):
        getattr(volume, spoil)()
        traffic.phase = "spoilt"
        try:
            daemon.start()
        except AssertionError as error:
            found["refusal"] = refusal = str(error).strip().splitlines()[-1]
            is_first = when == "before a first start"
            may_refuse = "semanticd: cannot" in refusal and "SEMANTIC_" in refusal
            if not may_refuse or (spoil == "fill" and not is_first):
                wrong.append(f"no start: {error}")
            volume.mend()
            traffic.phase = "after"
            daemon.start()
    traffic.begin()
    try:
        if when == "meanwhile":
            if spoil == "fill":
                volume.leave(RESERVE_BYTES + 8_000_000)
            found["least_free_bytes"] = least = _least_free(volume)
            if least < RESERVE_BYTES - _NOT_BLOCKS_BYTES:
                wrong.append(f"{least} bytes were left free of {RESERVE_BYTES}")
            traffic.phase = "spoilt"
            getattr(volume, spoil)()
        if traffic.phase == "spoilt":
            time.sleep(PHASE_S)
            if volume.needs_unmount:
                traffic.end()
                if status := daemon.stop():
                    wrong.append(f"exit status {status} while it could not be written")
                volume.mend()
                daemon.start()
                traffic.begin()
            else:
                volume.mend()
            traffic.phase = "after"
        time.sleep(PHASE_S)
    finally:
        traffic.end()
    wrong += traffic.failures[:20]
    found["answers"] = {" ".join(map(str, key)): count for key, count in sorted(traffic.answers.items())}
    wrong += _what_a_restart_loses(daemon, traffic.last_response)
    return found


def _least_free(volume: Volume) -> int:
    least = volume.free_bytes
    deadline = time.monotonic() + PHASE_S
    while time.monotonic() < deadline:
        least = min(least, volume.free_bytes)
        time.sleep(0.05)
    return least


def _what_a_restart_loses(daemon: DaemonProcess, response: str | None) -> list[str]:
    wrong: list[str] = []
    kept = talked(daemon, "late")
    if not kept:
        wrong.append("nothing cached in RAM")
    daemon.stop()
    daemon.start()
    cached = again(daemon, "late")
    if cached < kept - 256:
        wrong.append(f"after the restart {cached} of {kept} tokens of the late agent are cached")
    agents = httpx.get(f"{daemon.url}/v1/agents?limit=500", timeout=30).json()
    names = {one["id"] for one in agents["data"]}
    if missing := {"late", *(f"agent-{number}" for number in range(4))} - names:
        wrong.append(f"agents lost: {sorted(missing)}")
    if response is None or httpx.get(f"{daemon.url}/v1/responses/{response}", timeout=30).status_code != 200:
        wrong.append(f"response lost: {response}")
    if status := daemon.stop():
        wrong.append(f"exit status {status}")
    return wrong


CASES = [
    (spoil, when)
    for spoil in ("fill", "use_inodes", "set_read_only")
    for when in ("meanwhile", "before the start", "before the start after a kill", "before a first start")
]


def main() -> None:
    """Run the cases whose names contain one of the arguments, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("cases", nargs="*", help="parts of names: " + "; ".join(map(" ".join, CASES)))
    wanted = parser.parse_args().cases
    is_well = True
    with tempfile.TemporaryDirectory(prefix="smf-", dir="/tmp") as folder:
        model = write_tiny_model(Path(folder) / "tiny", vocab=259, ends=False)
        for number, (spoil, when) in enumerate(CASES):
            name = f"{spoil} {when}"
            if not wanted or any(part in (name, spoil) for part in wanted):
                result = run_case(Path(folder) / str(number), model, spoil, when)
                is_well = is_well and not result["wrong"]
                sys.stdout.write(json.dumps(result, indent=2) + "\n")
                sys.stdout.flush()
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
