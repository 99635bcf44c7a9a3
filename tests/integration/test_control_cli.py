"""The command line as programs see it, talking to a control server in this process: output, exit status, imports."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semanticd.adapters.control.connection import Identity
from semanticd.adapters.control.server import ControlServer
from semanticd.adapters.control.services import Services
from semanticd.adapters.event_loop import new_event_loop
from semanticd.entrypoints.cli.program import COMMANDS, ELSEWHERE
from tests.fakes.control_services import NullLog, fake_services

REPOSITORY = Path(__file__).resolve().parents[2]


class ServedHome:
    """A home with a control server in a thread, as if a daemon ran there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: Services
        self._loop = new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        self.services = fake_services()
        self._server = ControlServer(
            path=self.folder / "semanticd.sock",
            services=self.services,
            identity=Identity("0.1.0", os.getpid()),
            log=NullLog(),
        )
        await self._server.start()

    def on_loop(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(REPOSITORY),
            "SEMANTIC_RUNTIME_DIR": str(self.folder),
            "SEMANTIC_LOG_DIR": str(self.folder / "logs"),
        }

    def popen(
        self, *words: str, python: tuple[str, ...] = (), stdin: int | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *python, "-m", "semanticd", *words],
            cwd=self.folder,
            env=self.environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: str, python: tuple[str, ...] = (), typed: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = self.popen(*words, python=python, stdin=subprocess.PIPE if typed is not None else None)
        out, err = process.communicate(typed, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def shell(
        self, line: str, *, cwd: Path | None = None, module: str = "semanticd", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a line as a shell does, redirections included."""
        return subprocess.run(
            ["sh", "-c", f"{sys.executable} -m {module} {line}"],
            cwd=cwd or self.folder,
            env={**self.environment(), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def home(short_tmp_path: Path) -> Iterator[ServedHome]:
    made = ServedHome(short_tmp_path)
    yield made
    made.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.02)


def test_commands_print_tables_for_people_and_json_for_programs(home: ServedHome) -> None:
    table = home.run("agents", "list")
    assert table.stdout.splitlines()[0].split()[:2] == ["ID", "STATE"]
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == ["planner", "coder"]
    assert [row["id"] for row in json.loads(home.run("agents", "list", "--json").stdout)["agents"]] == [
        "planner",
        "coder",
    ]
    assert "ready" in home.run("status").stdout
    assert json.loads(home.run("ctl", "agents.pin", "agent=planner", "ttl_s=60", "--json").stdout)["pinned"]
    assert home.services.agents.pinned_for == [60]
    assert "pinned:" in home.run("agents", "unpin", "planner").stdout
    assert [row["id"] for row in json.loads(home.run("models", "list", "--json").stdout)["models"]] == [
        "small",
        "large",
    ]


def test_every_agents_command_reaches_the_daemon(home: ServedHome) -> None:
    for words in (
        ["show", "planner"],
        ["why", "planner"],
        ["pin", "planner", "--ttl", "5"],
        ["fork", "planner", "copy"],
        ["rewind", "planner", "--turns", "2"],
        ["evict", "planner"],
        ["export", "planner", "file.agent"],
        ["import", "file.agent", "--as", "back"],
        ["delete", "copy"],
    ):
        ran = home.run("agents", *words, "--json")
        assert ran.returncode == 0, ran.stderr
        result = json.loads(ran.stdout)
        if words[0] == "export":
            assert result["path"] == str(home.folder / "file.agent")
        if words[0] == "import":
            assert result["id"] == "back"


def test_errors_are_one_line_on_stderr_and_a_status(home: ServedHome) -> None:
    for words, status, said in (
        (["agents", "show", "nobody"], 1, "nobody"),
        (["ctl", "agents.pin", "agent"], 1, "KEY=VALUE"),
        (["ctl", "subscribe", "weather"], 1, "weather"),
        (["models", "load", "huge"], 1, "huge"),
        (["agents", "show"], 2, "AGENT"),
        (["frobnicate"], 2, "frobnicate"),
        (["start", "--mlx-kv-bit=8"], 2, "--mlx-kv-bits"),
    ):
        ran = home.run(*words)
        assert (ran.returncode, ran.stdout) == (status, ""), words
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["stat"], "'start' or 'status'"),
        (["confg"], "'config'"),
        (["modles", "list"], "'models'"),
        (["agents", "lst"], "'list'"),
        (["agents", "list", "--srt", "size"], "'--sort'"),
        (["start", "--prot", "1"], "--port"),
        (["restart", "--timeuot=1"], "--timeout"),
        (["serve", "--kv-bits", "8"], "--mlx-kv-bits"),
        (["ctl", "agents.pinn", "agent=planner"], "'agents.pin'"),
        (["ctl", "statsu"], "'status'"),
        (["agents", "why", "planer"], "'planner'"),
        (["chat", "cder", "--fork"], "'coder'"),
    ],
)
def test_a_mistyped_word_brings_the_closest(home: ServedHome, words: list[str], meant: str) -> None:
    ran = home.run(*words)
    assert ran.returncode in (1, 2)
    assert f"did you mean {meant}?" in ran.stderr.replace("Did", "did")


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("*", "not a pattern (it would match 2 of 2: planner, coder)"),
        ("pl*", "not a pattern (it would match 1 of 2: planner)"),
        ("x*", "not a pattern (it would match none)"),
        ("unrelated", "list them with `semanticd agents list`"),
    ],
)
def test_a_pattern_is_no_agent_and_the_error_says_what_to_do(
    home: ServedHome, typed: str, advice: str
) -> None:
    ran = home.run("agents", "delete", typed)
    assert ran.returncode == 1
    assert advice in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert len(json.loads(home.run("agents", "list", "--json").stdout)["agents"]) == 2


@pytest.mark.parametrize("words", [[], ["agents"], ["trace"]])
def test_a_group_without_a_command_prints_its_help_once(home: ServedHome, words: list[str]) -> None:
    ran = home.run(*words)
    assert ran.returncode == 2
    assert ran.stderr.count("Usage: ") == 1
    assert ran.stderr.startswith("Usage: ")
    assert "Commands:" in ran.stderr


def test_progress_is_narrated_while_a_model_changes(home: ServedHome) -> None:
    home.on_loop(home.services.models.gate.clear)
    swapping = home.popen("models", "swap", "large", "--json")
    assert swapping.stderr is not None
    assert swapping.stderr.readline() == "loading\n"
    home.on_loop(home.services.models.gate.set)
    out, _ = swapping.communicate(timeout=60)
    assert json.loads(out)["id"] == "large"


def test_subscriptions_print_a_line_per_event_until_interrupted(home: ServedHome) -> None:
    watching = home.popen("ctl", "subscribe", "tokens", "--agent", "planner")
    assert watching.stdout is not None
    hub = home.services.events
    assert hub is not None
    until(lambda: hub.wanted("tokens"), "it listens")
    hub.publish("tokens", {"agent": "coder", "text": "no"})
    hub.publish("tokens", {"agent": "planner", "text": "yes"})
    assert json.loads(watching.stdout.readline()) == {
        "event": "token",
        "data": {"agent": "planner", "text": "yes"},
        "dropped": 0,
    }
    watching.terminate()
    watching.communicate(timeout=60)


def test_logs_are_followed_through_a_rotation(home: ServedHome) -> None:
    logs = home.folder / "logs"
    logs.mkdir()
    file = logs / "semanticd.log"

    def line(event: str) -> str:
        return (
            json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "level": "info", "event": event, "n": 1})
            + "\n"
        )

    file.write_text(line("one") + line("two") + "not json\n")
    assert home.run("logs", "-n", "2").stdout == "2026-01-01T00:00:00.000 info    two n=1\nnot json\n"
    following = home.popen("logs", "-f", "-n", "1")
    assert following.stdout is not None
    assert following.stdout.readline() == "not json\n"
    with file.open("a") as stream:
        stream.write(line("three"))
    file.rename(logs / "semanticd.log.1")
    file.write_text(line("four"))
    assert [following.stdout.readline().split()[2] for _ in range(2)] == ["three", "four"]
    following.terminate()
    following.communicate(timeout=60)
    assert home.run("logs", "--path").stdout.strip() == str(file)


def test_a_log_that_is_not_there_yet_is_waited_for_and_that_is_said(home: ServedHome) -> None:
    file = home.folder / "logs" / "semanticd.log"
    assert f"there is no log at {file}; the daemon writes it" in home.run("logs").stderr
    following = home.popen("logs", "-f")
    assert following.stderr is not None
    assert following.stderr.readline() == f"there is no log at {file}; waiting for a daemon to write it\n"
    file.parent.mkdir()
    file.write_text("first\n")
    assert following.stdout is not None
    assert following.stdout.readline() == "first\n"
    following.terminate()
    following.communicate(timeout=60)


def test_a_reader_that_has_seen_enough_is_no_error(home: ServedHome) -> None:
    process = home.popen("config", "--all")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert (process.wait(60), errors) == (0, "")


HEAVY = ("mlx", "mlx_lm", "falcon", "uvicorn", "textual", "numpy", "pydantic", "huggingface_hub", "structlog")


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["agents", "list"],
        ["models", "list"],
        ["ctl", "ping"],
        ["version"],
        ["config"],
        ["logs", "--path"],
        ["stop"],
        ["completion", "bash"],
        ["service", "status"],
        ["--help"],
    ],
)
def test_answering_loads_neither_mlx_nor_the_server(home: ServedHome, words: list[str]) -> None:
    # The daemon of this home is the process of the tests, which must not be stopped.
    elsewhere = {"SEMANTIC_RUNTIME_DIR": str(home.folder / "elsewhere")} if words == ["stop"] else {}
    ran = home.shell(" ".join(words), PYTHONPROFILEIMPORTTIME="1", **elsewhere)
    assert ran.returncode == 0, ran.stderr
    loaded = {
        line.rsplit("|", 1)[1].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")
    }
    assert "semanticd.entrypoints.cli" in loaded
    assert {name for name in loaded if name.split(".")[0] in HEAVY} == set()


def test_chat_prints_answers_alone_on_stdout_and_takes_commands(home: ServedHome) -> None:
    turns = ["hello there", "more \\", "lines", '"""', "quoted", "  text", '"""']
    commands = ["/why", "/fork copy", "/nothing", "/rewind many", "/exit", "never"]
    typed = "\n".join([*turns, *commands, ""])
    result = home.run("chat", "planner", typed=typed)
    assert result.returncode == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["hello", "there"],
        ["more", "lines"],
        ["quoted", "text"],
    ]
    assert "agent copy; the whole conversation is cached" in result.stderr
    assert "/nothing is not a command; /help lists them" in result.stderr
    assert "many is not a number of turns" in result.stderr


def test_chat_shows_no_escape_sequence_that_the_model_wrote(home: ServedHome) -> None:
    result = home.run("chat", "planner", typed="a\x1b[2Jb\n")
    assert "\x1b" not in result.stdout
    assert "a\\x1b[2Jb" in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "agents list >/dev/full",
        "config --json >/dev/full",
        "models list --json >/dev/full",
        "status >/dev/full",
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(home: ServedHome, line: str) -> None:
    ran = home.shell(line)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == "semanticd: cannot write the output: No space left on device"
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("words", ["config --json", "agents list", "agents show nobody"])
def test_streams_that_the_shell_closed_lead_nowhere(home: ServedHome, words: str, closed: str) -> None:
    ran = home.shell(f"{words} {closed}")
    assert ran.returncode == (1 if "nobody" in words else 0)
    assert "Traceback" not in ran.stderr


def test_the_version_is_an_option_too(home: ServedHome) -> None:
    said = home.run("version").stdout
    assert home.run("--version").stdout == home.run("-V").stdout == said


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("run", "semanticd chat"),
        ("ps", "semanticd status"),
        ("pull", "semanticd models pull"),
        ("list", "models list"),
    ],
)
def test_commands_of_other_programs_point_to_ours(home: ServedHome, word: str, ours: str) -> None:
    ran = home.run(word, "llama3")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].startswith(f"semanticd: no such command '{word}'")
    assert ours in ran.stderr


def test_every_word_of_another_program_points_to_a_command_that_is_there() -> None:
    for word, ours in ELSEWHERE.items():
        assert word not in COMMANDS
        named = [part.split() for part in ours.split("`") if part.startswith("semanticd ")]
        assert {words[1] for words in named} <= set(COMMANDS), word


def test_usage_mistakes_have_the_prefix_of_all_errors(home: ServedHome) -> None:
    for words in (["agents", "show"], ["frobnicate"], ["agents", "list", "--nothing"]):
        assert home.run(*words).stderr.splitlines()[-1].startswith("semanticd: "), words


def test_agents_are_sorted_and_summed_up(home: ServedHome) -> None:
    by_name = home.run("agents", "list", "--sort", "name")
    assert [line.split()[0] for line in by_name.stdout.splitlines()[1:]] == ["coder", "planner"]
    assert by_name.stderr.startswith("2 agents, ")
    assert "counted once" in by_name.stderr


def test_an_export_overwrites_a_file_only_if_it_may(home: ServedHome) -> None:
    (home.folder / "there.agent").write_text("mine")
    refused = home.run("agents", "export", "planner", "there.agent", typed="")
    assert refused.returncode == 1
    assert refused.stderr == "semanticd: there.agent exists; --force overwrites it\n"
    assert home.run("agents", "export", "planner", "there.agent", "--force").returncode == 0


def test_the_doctor_leaves_the_engine_alone_where_it_is_asked_to(home: ServedHome) -> None:
    assert "generation" in home.run("doctor").stdout
    assert "generation" not in home.run("doctor", "--no-generate").stdout


def test_an_export_asks_before_it_overwrites_where_there_is_a_terminal(home: ServedHome) -> None:
    (home.folder / "there.agent").write_text("mine")
    for answer, status in (("n", 130), ("y", 0)):
        mine, theirs = pty.openpty()
        exporting = home.popen("agents", "export", "planner", "there.agent", stdin=theirs)
        os.write(mine, f"{answer}\n".encode())
        _, said = exporting.communicate(timeout=60)
        os.close(mine)
        os.close(theirs)
        assert exporting.returncode == status, said
        assert "there.agent exists; overwrite it?" in said
        assert ((home.folder / "there.agent").read_text() == "mine") is (answer == "n")


def test_a_doctor_without_a_daemon_says_at_once_what_it_examines(home: ServedHome) -> None:
    process = home.popen("--runtime-dir", str(home.folder / "elsewhere"), "doctor", "--no-generate")
    assert process.stderr is not None
    assert process.stderr.readline() == "no daemon is running; checking the installation from this process\n"
    process.terminate()
    process.communicate(timeout=60)


def test_paths_of_exports_are_this_shells_folder(home: ServedHome) -> None:
    inner = home.folder / "inner"
    inner.mkdir()
    ran = home.shell("agents export planner a.agent --json", cwd=inner)
    assert json.loads(ran.stdout)["path"] == str(inner / "a.agent")
    assert (inner / "a.agent").exists()
    assert home.shell("agents import a.agent --as other --json", cwd=inner).returncode == 0
    assert home.shell("agents import a.agent --as third").returncode == 1, "it is not here"


def test_a_dashboard_without_a_terminal_is_text_and_says_how_to_ask_for_it(home: ServedHome) -> None:
    ran = home.shell("", module="semantic_tui", TERM="xterm-256color")
    assert ran.returncode == 0, ran.stderr
    assert "--once" in ran.stderr
    assert "\x1b" not in ran.stdout
    assert "planner" in ran.stdout
    asked = home.shell("--once", module="semantic_tui")
    assert asked.stderr == ""


def test_chat_without_a_daemon_says_so_before_anything_is_typed(short_tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(short_tmp_path), "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(
        [sys.executable, "-m", "semanticd", "--runtime-dir", str(short_tmp_path), "chat"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 3
    assert "semanticd start" in ran.stderr


def test_a_setting_is_shown_with_all_its_digits(home: ServedHome) -> None:
    shown = home.shell("config", SEMANTIC_MLX_DECODE_SHARE="0.25").stdout
    assert next(line for line in shown.splitlines() if "decode_share" in line).split()[2] == "0.25"


def test_following_says_so_where_there_is_no_log_yet(home: ServedHome) -> None:
    following = home.popen("logs", "-f")
    assert following.stderr is not None
    assert "there is no log at" in following.stderr.readline()
    following.terminate()
    following.communicate(timeout=60)


def test_the_cache_is_shown_by_model_and_by_agent(home: ServedHome) -> None:
    assert [line.split()[0] for line in home.run("cache").stdout.splitlines()] == ["RAM", "disk"]
    models = home.run("cache", "--by", "model").stdout.splitlines()
    assert [line.split()[0] for line in models] == ["MODEL", "small", "not", "RAM", "disk"]
    agents = home.run("cache", "--by", "agent", "--json").stdout
    assert sorted(row["agent"] for row in json.loads(agents)["rows"]) == ["coder", "planner"]


@pytest.mark.parametrize(
    ("typed", "num_bytes"),
    [
        ("0", 0),
        ("2GB", 2 << 30),
        ("2 GiB", 2 << 30),
        ("1.5g", 3 << 29),
        ("500MB", 500 << 20),
        ("12345", 12345),
    ],
)
def test_the_cache_is_pruned_to_a_size_as_people_write_it(
    home: ServedHome, typed: str, num_bytes: int
) -> None:
    tried = home.run("cache", "prune", typed, "--dry-run")
    assert tried.stdout == "would free 2.0 KiB\n", tried.stderr
    assert home.run("cache", "prune", typed).stdout == "freed 2.0 KiB\n"
    assert home.services.cache.told == [("would prune", num_bytes), ("prune", num_bytes)]


def test_the_cache_is_cleared_only_by_who_means_it(home: ServedHome) -> None:
    refused = home.run("cache", "clear", typed="")
    assert (refused.returncode, home.services.cache.told) == (1, [])
    assert "--yes" in refused.stderr
    assert "freed 12.1 KiB in RAM" in home.run("cache", "clear", "--yes").stdout
    assert home.run("cache", "prune", "much").returncode == 2


def test_keys_are_new_each_time_and_good_in_a_header(home: ServedHome) -> None:
    keys = [home.run("key", "new").stdout.strip() for _ in range(2)]
    assert keys[0] != keys[1]
    assert all(key.isascii() and len(key) > 40 and "," not in key and key == key.strip() for key in keys)


def test_a_setting_may_be_typed_as_config_shows_it(home: ServedHome) -> None:
    before = home.run("config", "--json").stdout
    variables = {row["name"]: row["env"] for row in json.loads(before)["settings"]}
    shown = [line.partition("   (")[0] for line in home.run("config").stdout.splitlines()]
    environ = {variables[name.strip()]: value for name, _, value in (line.partition("= ") for line in shown)}
    keys = {name for name in environ if name.endswith("_KEY")}
    assert {environ.pop(name) for name in keys} == {"none"}, "a key is taken as it is"
    again = home.shell("config --json", **environ).stdout
    values, typed = [
        {row["name"]: row["value"] for row in json.loads(one)["settings"]} for one in (before, again)
    ]
    assert typed == values


def test_the_settings_file_is_named_written_and_changes_nothing(home: ServedHome) -> None:
    path = Path(home.run("config", "path").stdout.strip())
    assert str(path) in home.run("config").stderr
    before = home.run("config", "--json").stdout
    assert home.run("config", "init").stdout.strip() == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.run("config", "--json").stdout == before
    assert home.run("config", "init").returncode == 1
    # Every line of it can be taken as it is.
    path.write_text(
        "\n".join(line[1:] if line[:1] == "#" and line[1:2] not in (" ", "") else line
                  for line in path.read_text().splitlines())
    )  # fmt: skip
    ran = home.run("config", "--json")
    assert ran.returncode == 0, ran.stderr
    values = {row["name"]: row["value"] for row in json.loads(ran.stdout)["settings"]}
    assert values == {row["name"]: row["value"] for row in json.loads(before)["settings"]} | {
        name: value
        for name, value in values.items()
        if name == "paths.runtime_dir" or name == "paths.log_dir"
    }


def test_why_says_a_sentence_first_and_one_turn_unless_asked_for_more(home: ServedHome) -> None:
    told = home.run("agents", "why", "planner").stdout.splitlines()
    assert len(told) < 8
    assert not told[0].startswith((" ", "id:", "last:"))
    assert told[1].startswith("  prompt ")
    assert len(json.loads(home.run("agents", "why", "planner", "--json").stdout)["turns"]) >= 1


@pytest.mark.parametrize("typed", ["small.gguf", "./small", "~/small"])
def test_paths_of_models_are_this_shells(home: ServedHome, typed: str) -> None:
    ran = home.run("models", "load", typed)
    assert ran.returncode == 1
    assert str(home.folder / "small") in ran.stderr


def test_a_name_of_the_hub_is_no_path_though_it_ends_as_a_file(home: ServedHome) -> None:
    ran = home.run("models", "info", "hf:org/small.gguf")
    assert ran.returncode == 1
    assert "hf:org/small.gguf" in ran.stderr
    assert str(home.folder) not in ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("models", "info", "~nosuchuser/m"),
        ("agents", "export", "planner", "~nosuchuser/m.agent"),
        ("agents", "import", "~nosuchuser/m.agent"),
        ("--runtime-dir", "~nosuchuser", "status"),
    ],
)
def test_a_home_of_nobody_is_a_usage_mistake(home: ServedHome, words: tuple[str, ...]) -> None:
    ran = home.run(*words)
    assert ran.returncode == 2
    assert "begins with the name of an unknown user" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_removing_says_what_was_removed(home: ServedHome) -> None:
    removed = home.run("models", "rm", "large").stdout
    assert "path:" in removed
    assert "freed_bytes: " in removed


def test_no_self_test_runs_beside_a_daemon(home: ServedHome) -> None:
    ran = home.run("selftest", "--quick")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "a daemon is running" in ran.stderr
    assert "`semanticd stop`" in ran.stderr
