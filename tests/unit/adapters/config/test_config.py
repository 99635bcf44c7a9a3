"""Settings: which source wins, and what is said about mistakes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import Loaded, Settings, effective, load_settings
from semanticd.adapters.config.schema import declared, read_setting
from semanticd.adapters.config.sources import parse_flags
from semanticd.adapters.config.template import settings_file
from semanticd.domain.errors import ConfigurationError


def load(
    tmp_path: Path, *, toml: str = "", dotenv: str = "", env: dict[str, str] | None = None, **flags: Any
) -> Loaded:
    config = tmp_path / "config.toml"
    config.write_text(toml)
    (tmp_path / ".env").write_text(dotenv)
    environ = {"SEMANTIC_CONFIG_FILE": str(config), **(env or {})}
    return load_settings(
        flags={name.replace("__", "."): value for name, value in flags.items()},
        environ=environ,
        folder=tmp_path,
    )


def complaint(tmp_path: Path, **sources: Any) -> str:
    with pytest.raises(ConfigurationError) as failed:
        load(tmp_path, **sources)
    return failed.value.message


@pytest.mark.parametrize(
    ("typed", "is_path"),
    [("./m", True), ("m.gguf", True), ("~/m", True), ("org/here", True), ("org/other", False), ("plain", False),
     ("hf:org/here", False)],
)  # fmt: skip
def test_a_models_path_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, is_path: bool
) -> None:
    (tmp_path / "org" / "here").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = load_settings(flags={"mlx.model_id": typed}, environ={}, folder=tmp_path).settings.mlx.model_id
    assert found == (str(tmp_path / typed.removeprefix("~/").removeprefix("./")) if is_path else typed)


def test_every_line_of_the_settings_file_may_be_uncommented_as_it_stands(tmp_path: Path) -> None:
    lines = settings_file().splitlines()
    taken = "\n".join(re.sub(r"^#(\w+ = )", r"\1", line) for line in lines)
    assert taken.count("\n#") < settings_file().count("\n#")
    loaded = load(tmp_path, toml=taken)
    assert loaded.settings == Settings()


def test_flags_beat_environment_beats_dotenv_beats_toml_beats_defaults(tmp_path: Path) -> None:
    layers: list[tuple[dict[str, Any], int, str]] = [
        ({}, 8000, "default"),
        ({"toml": "[server]\nport = 1"}, 1, str(tmp_path / "config.toml")),
        ({"dotenv": "SEMANTIC_SERVER_PORT=2"}, 2, ".env SEMANTIC_SERVER_PORT"),
        ({"env": {"SEMANTIC_SERVER_PORT": "3"}}, 3, "environment SEMANTIC_SERVER_PORT"),
        ({"server__port": 4}, 4, "flag --server-port"),
    ]
    given: dict[str, Any] = {}
    for more, port, origin in layers:
        given |= more
        loaded = load(tmp_path, **given)
        assert loaded.settings.server.port == port
        shown = next(one for one in effective(loaded) if one.name == "server.port")
        assert (shown.value, shown.origin) == (port, origin)


def test_the_names_of_the_specification_are_understood(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        env={
            "SEMANTIC_MLX_MODEL_ID": "mlx-community/DeepSeek-Coder-V2-Lite-Instruct-4bit-mlx",
            "SEMANTIC_MLX_CACHE_BUDGET_MB": "4096",
            "SEMANTIC_MLX_MAX_BATCH_SIZE": "5",
            "SEMANTIC_AGENT_MAX_AGENTS_IN_MEMORY": "5",
            "SEMANTIC_AGENT_CACHE_DIR": "~/.semantic/caches",
            "SEMANTIC_SERVER_HOST": "0.0.0.0",
            "SEMANTIC_SERVER_PORT": "8000",
            "SEMANTIC_SERVER_LOG_LEVEL": "INFO",
            "SEMANTIC_API_KEY": "one, two",
        },
    ).settings
    assert settings.security.api_key == ("one", "two")
    assert settings.server.log_level == "info"
    assert settings.agent.cache_dir == Path.home() / ".semantic/caches"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    loaded = load(tmp_path, env={"SEMANTIC_MLX_KV_BITS": "", "SEMANTIC_API_KEY": " "})
    assert loaded.settings.mlx.kv_bits is None
    assert loaded.origins == {}


def test_dotenv_lines_may_be_quoted_exported_and_commented(tmp_path: Path) -> None:
    dotenv = """
    # a comment
    export SEMANTIC_SERVER_PORT="81"  # the port
    SEMANTIC_MLX_MODEL_ID='a b'
    SEMANTIC_SERVER_LOG_LEVEL=debug # more
    OTHER=1
    nonsense
    """
    settings = load(tmp_path, dotenv=dotenv).settings
    assert (settings.server.port, settings.mlx.model_id, settings.server.log_level) == (81, "a b", "debug")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = complaint(
        tmp_path,
        toml="[sever]\nport = 1\n[mlx]\nkv_bit = 4\nmax_batch_size = 'many'\n[models.mine]\npath = '/x'",
        dotenv="SEMANTIC_SERVER_PROT=9",
        env={"SEMANTIC_MLX_CACHE_BUDGET": "1", "SEMANTIC_MLX_DECODE_SHARE": "2", "SEMANTIC_XYZZY": "1"},
    )
    for words in (
        "sever; did you mean server?",
        "kv_bit; did you mean kv_bits?",
        "mlx.max_batch_size = 'many'",
        "a whole number from 1 to 256",
        "[models.mine]",
        "SEMANTIC_SERVER_PROT; did you mean SEMANTIC_SERVER_PORT?",
        "SEMANTIC_MLX_CACHE_BUDGET; did you mean SEMANTIC_MLX_CACHE_BUDGET_MB?",
        "mlx.decode_share = '2'",
        "a number from 0.05 to 0.95",
        "SEMANTIC_XYZZY; `semanticd config --all`",
    ):
        assert words in text


def test_a_bad_secret_is_not_repeated(tmp_path: Path) -> None:
    assert "hush" not in complaint(tmp_path, toml="[security]\nadmin_key = ['hush']")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("port = 1", "port"),
        ("server = 1", "must be a table"),
        ("[server", "is not TOML"),
        ("[server]\nport = true", "expected a whole number"),
        ("[server]\nport = 1.5", "expected a whole number"),
        ("[mlx]\nkv_bits = 5", "4, 6 or 8"),
        ("[mlx]\ndecode_share = nan", "expected a number"),
        ("[mlx]\nspeculation = 0", "expected auto, or off, or a whole number from 1 to 64"),
        ("[mlx]\nspeculation = 'on'", "expected auto, or off, or a whole number from 1 to 64"),
        ("[mlx]\nload_on_demand = 'maybe'", "true or false"),
        ("[agent]\nwrite_policy = 'sometimes'", "always, second_use or off"),
        ("[agent]\ncache_dir = ''", "a folder's path"),
        ("[server]\ncors_origins = [1]", "origins"),
        ("[mlx]\nmodel_id = ''", "a model's name"),
        ("[models.mine]\nsources = ['hf:a/b']\ncontext_len = 5", "did you mean context_length"),
    ],
)
def test_toml_mistakes_say_what_was_expected(tmp_path: Path, toml: str, words: str) -> None:
    assert words in complaint(tmp_path, toml=toml)


@pytest.mark.parametrize(("said", "found"), [("auto", "auto"), ("OFF", "off"), ("1", 1), ("64", 64)])
def test_speculation_is_a_word_or_a_number(tmp_path: Path, said: str, found: object) -> None:
    assert load(tmp_path, env={"SEMANTIC_MLX_SPECULATION": said}).settings.mlx.speculation == found


def test_a_named_file_that_is_missing_is_a_mistake_and_the_usual_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not there"):
        load_settings(environ={"SEMANTIC_CONFIG_FILE": str(tmp_path / "none.toml")}, folder=tmp_path)
    assert load_settings(environ={}, folder=tmp_path).settings == Settings()


def test_a_home_of_nobody_is_a_mistake_in_a_setting(tmp_path: Path) -> None:
    text = complaint(tmp_path, env={"SEMANTIC_LOG_DIR": "~nosuchuser/x"})
    assert "paths.log_dir = '~nosuchuser/x' (environment SEMANTIC_LOG_DIR): expected a folder's path" in text
    with pytest.raises(
        ConfigurationError, match="SEMANTIC_CONFIG_FILE = '~nosuchuser/x' names the home of an unknown user"
    ):
        load_settings(environ={"SEMANTIC_CONFIG_FILE": "~nosuchuser/x"}, folder=tmp_path)


def test_users_models_are_handed_on(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, toml="[models.mine]\nsources = ['hf:a/b']\naliases = ['m']\ncontext_length = 4096"
    )
    assert loaded.settings.models["mine"]["sources"] == ["hf:a/b"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_host_that_others_can_reach_needs_a_key(tmp_path: Path, host: str) -> None:
    assert "SEMANTIC_API_KEY" in complaint(tmp_path, server__host=host)
    assert load(tmp_path, server__host=host, env={"SEMANTIC_API_KEY": "k"}).settings.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, server__host=host).settings.server.host == host


def test_contradictions_are_named(tmp_path: Path) -> None:
    assert "cors_origins = '*'" in complaint(tmp_path, server__cors_origins="*")
    assert "max_queue_per_agent = 9" in complaint(tmp_path, mlx__max_queue=5, mlx__max_queue_per_agent=9)


def test_one_port_cannot_be_both(tmp_path: Path) -> None:
    for settings in ({"server__port": 11434, "server__ollama_port": 11434}, {"server__ollama_port": 8000}):
        text = complaint(tmp_path, **settings)
        assert "server.ollama_port = " in text
        assert "is server.port too" in text
    assert load(tmp_path, server__port=0, server__ollama_port=11434).settings.server.ollama_port == 11434


def test_secrets_are_masked_and_everything_else_is_plain(tmp_path: Path) -> None:
    loaded = load(tmp_path, env={"SEMANTIC_API_KEY": "hush", "SEMANTIC_ADMIN_KEY": "husher"})
    rows = {one.name: one for one in effective(loaded)}
    assert rows["security.api_key"].value == rows["security.admin_key"].value == "********"
    assert "hush" not in repr(rows)
    assert all(isinstance(one.value, str | int | float | bool | list | None) for one in rows.values())


def test_every_setting_has_a_flag_a_variable_and_a_meaning() -> None:
    settings = list(declared())
    assert len({one.as_flag for one in settings}) == len({one.env for one in settings}) == len(settings)
    assert {one.flag for one in settings} == {"" if one.secret else one.as_flag for one in settings}
    for one in settings:
        assert re.fullmatch(r"SEMANTIC_[A-Z_]+", one.env)
        assert one.meaning.endswith(".")
        read_setting(Settings(), one.name)


def test_the_word_none_means_no_value_where_that_is_the_default(tmp_path: Path) -> None:
    # The pages and `semanticd config` show such a default as `none`, so that people type it.
    typed = [one for one in declared() if one.default in (None, ()) and not one.secret]
    assert {"mlx.kv_bits", "mlx.model_ttl_s", "agent.peers", "trace.dir"} <= {one.name for one in typed}
    for word in ("none", " None "):
        loaded = load(tmp_path, toml="[mlx]\nkv_bits = 4\n", env={one.env: word for one in typed})
        assert loaded.settings == Settings()
        assert set(loaded.origins) == {one.name for one in typed}


def test_exact_is_a_word_for_the_models_own_precision(tmp_path: Path) -> None:
    loaded = load(tmp_path, toml="[mlx]\nkv_bits = 4\n", env={"SEMANTIC_MLX_KV_BITS": "Exact"})
    assert loaded.settings.mlx.kv_bits is None
    assert "expected exact, or 4, 6 or 8" in complaint(tmp_path, env={"SEMANTIC_MLX_KV_BITS": "5"})


def test_a_key_called_none_is_a_key(tmp_path: Path) -> None:
    assert load(tmp_path, env={"SEMANTIC_API_KEY": "none"}).settings.security.api_key == ("none",)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--cache-max", "--agent-cache-max-gb"),
        ("--budget", "--mlx-cache-budget-mb or --agent-write-budget-gb-per-day"),
        ("--prot", "--port"),
        ("--timeuot", "--timeout"),
    ],
)
def test_half_of_a_flags_name_or_a_mistyped_one_brings_the_whole(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {meant}\\?"):
        parse_flags([typed, "1"], others=["--port", "--timeout"])


def test_flags_are_read_in_both_forms_and_mistakes_named() -> None:
    assert parse_flags(["--mlx-kv-bits", "8", "--server-port=9"]) == {"mlx.kv_bits": "8", "server.port": "9"}
    for arguments, words in [
        (["--mlx-kv-bit", "8"], "did you mean --mlx-kv-bits"),
        (["--mlx-kv-bits"], "needs a value"),
        (["8"], "unexpected argument"),
    ]:
        with pytest.raises(ValueError, match=words):
            parse_flags(arguments)


@pytest.mark.parametrize("flag", ["--security-api-key", "--security-admin-key"])
def test_a_key_is_not_taken_from_the_command_line_and_its_value_not_repeated(
    tmp_path: Path, flag: str
) -> None:
    for arguments in ([flag, "hush"], [f"{flag}=hush"]):
        with pytest.raises(ValueError, match=r"set the variable SEMANTIC_A\w+_KEY") as refused:
            parse_flags(arguments)
        assert "hush" not in str(refused.value)
    assert "hush" not in complaint(tmp_path, security__api_key="hush")


def test_a_variable_of_another_program_is_pointed_out_and_passed_over(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        env={"SEMANTIC_SCHOLAR_API_KEY": "hush", "SEMANTIC_SERVER_PORT": "81"},
        dotenv="SEMANTIC_SERVER_PROT=9\nSEMANTIC_XYZZY=1",
    )
    assert loaded.settings.server.port == 81
    assert loaded.warnings == (
        "unknown variable (environment): SEMANTIC_SCHOLAR_API_KEY; did you mean SEMANTIC_API_KEY?",
        "unknown variable (.env): SEMANTIC_SERVER_PROT; did you mean SEMANTIC_SERVER_PORT?",
        "unknown variable (.env): SEMANTIC_XYZZY; `semanticd config --all` lists every setting",
    )


def test_every_file_that_was_read_is_named_with_what_it_set_and_no_value(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        toml="[server]\nport = 81\n[security]\nadmin_key = 'hush'\n[models.mine]\nsources = ['hf:a/b']",
        dotenv="SEMANTIC_API_KEY=hush\nSEMANTIC_SERVER_PORT=82",
    )
    assert loaded.explained() == [
        f"settings from {tmp_path / '.env'}: security.api_key, server.port",
        f"settings from {tmp_path / 'config.toml'}: server.port, security.admin_key, models.mine",
    ]
    assert load_settings(environ={"SEMANTIC_SERVER_PORT": "1"}, folder=tmp_path / "empty").explained() == []


def test_an_unknown_flag_setting_is_a_mistake(tmp_path: Path) -> None:
    assert "did you mean mlx.kv_bits" in complaint(tmp_path, mlx__kv_bitz=8)


def test_bounds_are_named_with_all_their_digits() -> None:
    expected = {one.env: one.kind.expected for one in declared()}
    assert expected["SEMANTIC_MLX_SNAPSHOT_TOKENS"] == "a whole number from 0 to 1048576"
    assert expected["SEMANTIC_MLX_DECODE_SHARE"] == "a number from 0.05 to 0.95"
    assert {env for env, words in expected.items() if "e+" in words} == set()


@pytest.mark.parametrize("value", [",", " , ", ",,"])
def test_commas_without_a_key_do_not_open_the_server(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match="one or more keys"):
        load_settings(environ={"SEMANTIC_API_KEY": value}, folder=tmp_path)


def test_profiles_are_read_and_their_mistakes_named(tmp_path: Path) -> None:
    toml = "[profiles.coder-fast]\nmodel = 'qwen3-8b'\ndefaults = { temperature = 0.2 }"
    found = load(tmp_path, toml=toml)
    assert found.settings.profiles == {"coder-fast": {"model": "qwen3-8b", "defaults": {"temperature": 0.2}}}
    for mistake, said in (
        ("[profiles.x]\ndefaults = {}", r"\[profiles.x\] in .* needs `model`"),
        ("[profiles.x]\nmodel = 'a'\ndefault = {}", "did you mean defaults"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            load(tmp_path, toml=mistake)


def test_peers_are_servers_and_a_folder_is_none(tmp_path: Path) -> None:
    env = {"SEMANTIC_PEERS": "http://mac-2:8000/, https://mac-3,http://mac-2:8000", "SEMANTIC_API_KEY": "k"}
    assert load(tmp_path, env=env).settings.agent.peers == ("http://mac-2:8000", "https://mac-3")
    for wrong in (
        "/mnt/share", "file:///mnt/share", "mac-2:8000", "http://", "http://mac-2:99999", "http://[::1",
        "http://user:secret@mac-2", "http://mac-2/v1", "http://mac-2?x", ",".join(f"http://m{n}" for n in range(17)),
    ):  # fmt: skip
        assert "and no folder" in complaint(tmp_path, env={**env, "SEMANTIC_PEERS": wrong})


def test_a_peer_on_another_machine_needs_a_key(tmp_path: Path) -> None:
    env = {"SEMANTIC_PEERS": "http://127.0.0.1:8001,http://mac-2:8000"}
    assert "http://mac-2:8000" in complaint(tmp_path, env=env)
    assert load(tmp_path, env={**env, "SEMANTIC_PEER_KEY": "k"}).settings.security.peer_key == "k"
    assert load(tmp_path, env={"SEMANTIC_PEERS": "http://127.0.0.1:8001"}).settings.agent.peers
    loaded = load(tmp_path, dotenv="SEMANTIC_PEERS=http://127.0.0.1:8001\n")
    assert "agent.peers" in {one.name for one in declared() if one.guarded}
    assert loaded.settings.agent.peers == ("http://127.0.0.1:8001",)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("x = " + "[" * 5000, "nested"),
        ("x = " + "{a=" * 5000, "nested"),
        ("[mlx]\nmax_queue = " + "1" * 5000, "is not TOML: Exceeds the limit"),
        ("[mlx]\nmax_queue = 0x" + "f" * 5000, "mlx.max_queue in "),
        ("[server]\ndrain_timeout_s = " + "9" * 400, "server.drain_timeout_s in "),
        (f"[models.mine]\nsources = ['hf:a/b']\nweights_bytes = {2**63}", "models.mine.weights_bytes in "),
    ],
    ids=["lists", "tables", "digits", "hexadecimal", "seconds", "model"],
)
def test_a_file_that_no_parser_or_setting_takes_is_named(tmp_path: Path, toml: str, words: str) -> None:
    text = complaint(tmp_path, toml=toml)
    assert words in text
    assert str(tmp_path / "config.toml") in text
    assert len(text) < 1000


def test_a_settings_file_that_is_none_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.toml").write_text("#" * (1024 * 1024 + 1))
    for path in (tmp_path / "pipe", tmp_path / "large.toml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match=f"cannot read {path}: "):
            load_settings(environ={"SEMANTIC_CONFIG_FILE": str(path)}, folder=tmp_path)


@pytest.mark.parametrize("name", ["api_key", "admin_key", "peer_key"])
@pytest.mark.parametrize("value", ["schlüssel", "ключ", "with\ttab", "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, name: str, value: str) -> None:
    variable = f"SEMANTIC_{name.upper()}"
    text = complaint(tmp_path, env={variable: f"good{value}good"})
    assert f"security.{name} = ******** (environment {variable})" in text
    assert "printable ASCII" in text
    assert load(tmp_path, env={variable: "sk-_~!good"}).origins == {
        f"security.{name}": f"environment {variable}"
    }


def test_machines_that_compute_together_need_a_key_that_cannot_be_guessed(tmp_path: Path) -> None:
    hosts = {"SEMANTIC_DISTRIBUTED_HOSTS": "/tmp/hosts.json"}
    for key in ("", "fifteen-letters"):
        with pytest.raises(ConfigurationError, match="SEMANTIC_DISTRIBUTED_KEY"):
            load(tmp_path, env={**hosts, "SEMANTIC_DISTRIBUTED_KEY": key})
    keyed = {**hosts, "SEMANTIC_DISTRIBUTED_KEY": "sixteen-letters-"}
    assert str(load(tmp_path, env=keyed).settings.distributed.hosts) == "/tmp/hosts.json"
    with pytest.raises(ConfigurationError, match="leave SEMANTIC_PEERS out"):
        load(tmp_path, env={**keyed, "SEMANTIC_PEERS": "http://127.0.0.1:8001"})
