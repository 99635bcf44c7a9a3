"""Record sessions of coding programs: `python contrib/dev/traces/record.py --programs P --output FOLDER`.

P holds Claude Code, Codex and opencode as npm installs them (`make test-clients`: `.cache/clients/npm/node_modules`).
A scripted server takes the place of the model, so that the sessions are the same each time; the programs and the tools
that they run are real. What is written holds their own prompts: pass it on only as contrib/dev/traces/refill.py makes
it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from contrib.dev.traces.scripted_server import Call, Script, serving
from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Service

CONTEXT = 200_000
APP = "\n\n".join(
    f"def part_{number}(value: int) -> int:\n    return value * {number} + {number % 7}"
    for number in range(40)
)
FILES = {
    "app.py": f"{APP}\n",
    "README.md": "# A small program\n\n" + "It adds numbers, and it multiplies them.\n" * 30,
    "checks/test_app.py": "from app import part_3\n\n\ndef test_it():\n    assert part_3(2) == 9\n",
    "data/rows.csv": "".join(f"{number},{number * number},name{number}\n" for number in range(400)),
}
PROMPTS = {
    "main": "STEP-MAIN Find out what app.py does, mend part_3 and test it.",
    "again": "STEP-AGAIN Now do the same for part_5.",
    "late": "STEP-LATE And now for part_7, after a pause.",
    "compacted": "STEP-AFTER Say what is left to do, and look once more.",
    "fresh": "STEP-FRESH Count the rows of data/rows.csv.",
    "other": "STEP-OTHER What is in this folder?",
}


def write_project(folder: Path, *, other: bool = False) -> None:
    """Make a git repository for the programs to work in."""
    files = {"notes.txt": "Nothing much.\n" * 20} if other else FILES
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
        subprocess.run([*git, *words], cwd=folder, check=True)


def shell_steps(
    shell: Callable[[str], Call], *, sub_agent: Sequence[Call], own: Sequence[Call]
) -> dict[str, Any]:
    """Return the script; `own` are the program's tools for reading, editing and writing."""
    return {
        "STEP-MAIN": [
            shell("ls -la"),
            *own,
            shell("python3 -m pytest -q checks || true"),
            shell("grep -n part_3 app.py"),
            shell("cat no-such-file"),
            shell("python3 -c 'raise SystemExit(3)'"),
            *sub_agent,
            shell("head -60 data/rows.csv"),
            shell("sed -i 's/numbers/figures/' README.md && git diff --stat"),
            shell("seq 1 200"),
            shell("git status --short"),
        ],
        "STEP-SUB": [shell("cat README.md"), shell("wc -l app.py")],
        "STEP-AGAIN": [shell("grep -n part_5 app.py"), shell("sed -n 15,25p app.py"), shell("false")],
        "STEP-LATE": [shell("grep -n part_7 app.py"), shell("git log --oneline")],
        "STEP-AFTER": [shell("git diff"), shell("ls checks")],
        "STEP-FRESH": [shell("wc -l data/rows.csv"), shell("tail -5 data/rows.csv")],
        "STEP-OTHER": [shell("ls"), shell("cat notes.txt")],
    }


class Recorder:
    """One program's home, projects and script."""

    def __init__(self, home: Path, programs: Path, url: str) -> None:
        self.home, self.programs, self.url = home, programs, url
        self.project, self.elsewhere = home / "project", home / "elsewhere"
        self.service = Service(url, "tiny", CONTEXT)

    def run(self, name: str, path: Path, arguments: Sequence[str], *, cwd: Path | None = None) -> str:
        """Run a program as `semanticd launch` does."""
        made = PROGRAMS[name].launch(self.service)
        assert isinstance(made, Launch)
        done = subprocess.run(
            [str(path), *made.arguments, *made.arguments_if_known, *arguments],
            cwd=cwd or self.project,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "TERM": "dumb",
                **made.defaults,
                **made.environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(f"{name} {arguments[:2]}: status {done.returncode}: {done.stderr[-600:]}\n")
        return done.stdout


def record_claude(at: Recorder) -> None:
    (path,) = [p for p in at.programs.glob("@anthropic-ai/claude-code-*/claude") if "musl" not in str(p)]
    # The list of tools takes all that follows.
    options = ["--output-format", "json", "--allowedTools", "Bash,Read,Edit,Write,Agent"]

    def say(prompt: str, *more: str, cwd: Path | None = None) -> str:
        said = at.run("claude", path, ["-p", prompt, *more, *options], cwd=cwd)
        return str(json.loads(said)["session_id"])

    session = say(PROMPTS["main"])
    session = say(PROMPTS["again"], "--resume", session)
    session = say(PROMPTS["late"], "--resume", session)
    # Its first answer says that the context is nearly full.
    say(PROMPTS["compacted"], "--resume", session)
    say(PROMPTS["fresh"])
    say(PROMPTS["other"], cwd=at.elsewhere)


def record_codex(at: Recorder) -> None:
    path = at.programs / ".bin" / "codex"
    options = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]

    def say(prompt: str, *more: str, cwd: Path | None = None) -> str:
        said = at.run("codex", path, ["exec", *options, *more, prompt], cwd=cwd)
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return next(str(event["thread_id"]) for event in events if event["type"] == "thread.started")

    thread = say(PROMPTS["main"])
    say(PROMPTS["again"], "resume", thread)
    say(PROMPTS["late"], "resume", thread)
    # Its limit makes it summarize the conversation before it continues.
    say(PROMPTS["compacted"], "-c", "model_auto_compact_token_limit=9000", "resume", thread)
    say(PROMPTS["fresh"])
    say(PROMPTS["other"], cwd=at.elsewhere)


def record_opencode(at: Recorder) -> None:
    path = at.programs / ".bin" / "opencode"
    at.run("opencode", path, ["run", PROMPTS["main"]])
    at.run("opencode", path, ["run", "--continue", PROMPTS["again"]])
    at.run("opencode", path, ["run", "--continue", PROMPTS["late"]])
    whole, at.service = at.service, Service(at.url, "tiny", 12_000)
    at.run("opencode", path, ["run", "--continue", PROMPTS["compacted"]])
    at.service = whole
    at.run("opencode", path, ["run", PROMPTS["fresh"]])
    at.run("opencode", path, ["run", PROMPTS["other"]], cwd=at.elsewhere)


def script_of(name: str, project: Path) -> dict[str, Any]:
    """Return what the model says to a program."""
    app, test = str(project / "app.py"), str(project / "checks" / "test_more.py")
    old, new = "return value * 3 + 3", "return value * 3 + 4"
    asked = "STEP-SUB Read README.md and count the lines of app.py."
    content = "from app import part_5\n\n\ndef test_more():\n    assert part_5(1) == 10\n"
    if name == "claude":
        return shell_steps(
            lambda line: Call("Bash", {"command": line, "description": "Run it"}),
            sub_agent=[
                Call("Agent", {"description": "Read it", "prompt": asked, "subagent_type": "general-purpose"})
            ],
            own=[
                Call("Read", {"file_path": app}),
                Call("Edit", {"file_path": app, "old_string": old, "new_string": new}),
                Call("Edit", {"file_path": app, "old_string": "not there", "new_string": "x"}),
                Call("Write", {"file_path": test, "content": content}),
            ],
        )
    if name == "opencode":
        return shell_steps(
            lambda line: Call("bash", {"command": line, "description": "Run it"}),
            sub_agent=[Call("task", {"description": "Read it", "prompt": asked, "subagent_type": "general"})],
            own=[
                Call("read", {"filePath": app}),
                Call("edit", {"filePath": app, "oldString": old, "newString": new}),
                Call("edit", {"filePath": app, "oldString": "not there", "newString": "x"}),
                Call("write", {"filePath": test, "content": content}),
            ],
        )
    return shell_steps(
        lambda line: Call("exec_command", {"cmd": line}),
        sub_agent=[
            Call("spawn_agent", {"message": asked}, namespace="multi_agent_v1"),
            Call("exec_command", {"cmd": "sleep 3; echo waited"}),
        ],
        own=[
            Call("exec_command", {"cmd": "cat app.py"}),
            Call("exec_command", {"cmd": f"sed -i 's/{old.replace('*', '.')}/{new}/' app.py && git diff"}),
            Call("exec_command", {"cmd": f"cat > checks/test_more.py <<'END'\n{content}END"}),
        ],
    )


RECORDERS = {"claude": record_claude, "codex": record_codex, "opencode": record_opencode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="node_modules with the programs")
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.trace.jsonl")
    parser.add_argument("--only", choices=list(RECORDERS), action="append", help="record this program")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in options.only or RECORDERS:
        with tempfile.TemporaryDirectory(prefix="trace-") as folder:
            home = Path(folder)
            (home / "project").mkdir()
            (home / "elsewhere").mkdir()
            write_project(home / "project")
            write_project(home / "elsewhere", other=True)
            full = ("STEP-AFTER", CONTEXT * 19 // 20) if name == "claude" else ("", 0)
            script = Script(script_of(name, home / "project"), full)
            with serving(script) as url:
                RECORDERS[name](Recorder(home, options.programs.resolve(), url))
        path = options.output / f"{name}.trace.jsonl"
        head = {"trace": 1, "server": "scripted", "began_at": script.rows[0]["at"], "content": "full"}
        lines = [head, *sorted(script.rows, key=lambda row: float(row["at"]))]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sys.stderr.write(f"{path}: {len(script.rows)} requests; steps taken: {script.taken}\n")


if __name__ == "__main__":
    main()
