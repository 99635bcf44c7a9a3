"""Every setting, once: its section and name, variable, default, kind and meaning. Docs and flags are made from this.

Rule: a section's field `name` is the TOML key `[section] name`, the flag `--section-name` and the environment
variable `SEMANTIC_SECTION_NAME`, unless the field says another variable.
"""
# ruff: noqa: RUF009 (`setting` returns `dataclasses.field`, which the linter cannot see)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import platformdirs

from semanticd.adapters.config.kinds import (
    Kind,
    auto_or,
    choice,
    exact_or,
    file,
    flag,
    folder,
    is_word,
    key,
    keys,
    model,
    number,
    off_or,
    text,
    texts,
    urls,
    whole,
)
from semanticd.control.address import default_runtime_dir
from semanticd.domain.limits import LIMITS

APP = "semanticd"


def setting(
    default: Any, kind: Kind, meaning: str, *, env: str = "", secret: bool = False, guarded: bool = False
) -> Any:
    """Declare a setting; a callable default is asked when the settings are read.

    A secret has no flag, for other users can read a program's arguments. A guarded one (each secret too) decides about
    security: a `.env` file that is not trusted may not set it.

    Rule: a setting is guarded unless every value that it takes leaves all defences and limits as the user set them. So
    these are: what listens and who may ask (address, ports, keys, hosts, origins, model names), what is reached or read
    (endpoints, peers, folders, models that are not ours), what is recorded or kept, whatever switches off a check, and
    each limit on requests, memory or disk. The others decide about speed, precision and form only. A test lists them.
    """
    metadata = {"kind": kind, "meaning": meaning, "env": env, "secret": secret, "guarded": guarded or secret}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxSettings:
    """The engine: model, memory, batching."""

    model_id: str | None = setting(
        None,
        model(),
        "Model to serve: alias, `hf:org/name`, folder or file; none: chosen for this machine.",
    )
    cache_budget_mb: int | Literal["auto"] = setting(
        "auto",
        auto_or(whole(minimum=16)),
        "Memory for KV caches in MiB: hot blocks, running batches, writes in flight; auto: what the weights leave.",
        guarded=True,
    )
    memory_mb: int | Literal["auto"] = setting(
        "auto",
        auto_or(whole(minimum=256)),
        "Memory in MiB for weights and KV together; auto: the device's recommendation, or two thirds of RAM on a CPU.",
        guarded=True,
    )
    wired_weights: bool | Literal["auto"] = setting(
        "auto",
        auto_or(flag()),
        "Keep weights resident (macOS 15 or later); auto: if at least 8 GB and 35 % of the memory remain.",
        guarded=True,
    )
    max_batch_size: int = setting(5, whole(minimum=1, maximum=256), "Sequences decoded together.")
    kv_bits: int | None = setting(
        None,
        exact_or(whole(minimum=4, choices=(4, 6, 8))),
        "Bits per cached number (6: 8 for keys, 4 for values); exact or none: the model's own precision.",
    )
    block_tokens: int = setting(256, whole(minimum=16, maximum=8192), "Tokens per cache block.")
    snapshot_tokens: int = setting(
        2048,
        whole(minimum=0, maximum=1_048_576),
        "Prompt tokens between snapshots of layers whose cache cannot be cut (windows, states); 0: at messages only.",
    )
    prefill_chunk: int = setting(
        2048,
        whole(minimum=16, maximum=16384),
        "Maximum prompt tokens computed in one step; fewer while other requests decode, wait or compute.",
    )
    cpu_math: bool = setting(
        True,
        flag(),
        "On the CPU, use our own attention and gated activations, which are faster than the library's.",
    )
    speculation: int | Literal["auto", "off"] = setting(
        "auto",
        auto_or(off_or(whole(minimum=1, maximum=64))),
        "Maximum tokens guessed from earlier text or from a schema, and verified in one step; auto: 12.",
    )
    decode_share: float = setting(
        0.5,
        number(minimum=0.05, maximum=0.95),
        "Minimum share of engine time for decoding while prompts wait.",
    )
    max_stall_ms: int = setting(
        300,
        whole(minimum=10, maximum=60_000),
        "Maximum ms that a prompt chunk delays decoding; on a GPU, mixtures of experts get a minimum chunk anyway.",
    )
    max_queue: int = setting(
        256,
        whole(minimum=1),
        "Requests that may run or wait, counting each prompt and choice; others get 503 (529 in Anthropic's API), "
        "a body with more than that gets 400.",
        guarded=True,
    )
    max_queue_per_agent: int = setting(
        32,
        whole(minimum=1),
        "The same for one agent; also the maximum number of choices of one prompt, and of places that a body without "
        "an agent takes.",
        guarded=True,
    )
    canonicalize: bool = setting(
        True, flag(), "Remove header lines that change with every prompt, and sort the keys of tool schemas."
    )
    move_volatile: bool = setting(
        False,
        flag(),
        "Move the date, environment and git status from the system text to after the tools.",
    )
    gguf_bits: int | None = setting(
        None,
        whole(minimum=4, choices=(4, 8, 16)),
        "Bits per weight of converted GGUF files (16: floats); none: the file's own format if MLX supports it, else 8.",
    )
    literal_content: bool = setting(
        True,
        flag(),
        "Treat control tokens in user text (`<|im_end|>`, ...) as plain text.",
        guarded=True,
    )
    load_on_demand: bool = setting(
        False,
        flag(),
        "Load an installed model when a request names it, instead of answering 404.",
        guarded=True,
    )
    model_ttl_s: float | None = setting(
        None, number(minimum=1), "Unload a model that got no request for this many seconds; none: never."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Agents and the warm tier on disk."""

    max_agents_in_memory: int = setting(
        5, whole(minimum=1), "Number of agents whose blocks stay hot when RAM is short; others become warm."
    )
    cache_dir: Path = setting(
        lambda: Path("~/.semantic/caches").expanduser(), folder(), "Folder of the warm tier.", guarded=True
    )
    cache_max_gb: float | None = setting(
        None,
        number(minimum=0),
        "Maximum size of the cache folder in GiB; none: 20 % of the space free at the first start, at most 64; 0: no "
        "limit.",
        guarded=True,
    )
    disk_reserve_gb: float | None = setting(
        None,
        number(minimum=0),
        "GiB to keep free on the volume; blocks are written only above that; none: 10, or 5 % of a large volume; 0: no "
        "reserve.",
        guarded=True,
    )
    anonymous_max: int = setting(
        1000,
        whole(minimum=1),
        "Number of agents kept for clients that name none; the longest unused are deleted first.",
        guarded=True,
    )
    anonymous_days: float = setting(
        14.0, number(minimum=0.01), "Days without use after which such an agent is deleted.", guarded=True
    )
    preload_share: float = setting(
        0.25,
        number(minimum=0, maximum=1),
        "Share of the KV budget to fill from disk after a start, with blocks of recent agents; 0: none.",
    )
    write_policy: str = setting(
        "always",
        choice("always", "second_use", "off"),
        "Which blocks are written to disk: all, those used a second time, or none.",
        guarded=True,
    )
    write_budget_gb_per_day: float | None = setting(
        None,
        number(minimum=0.001),
        "Maximum GiB written per day, to limit disk wear; none: no limit.",
        guarded=True,
    )
    peers: tuple[str, ...] = setting(
        (),
        urls(most=LIMITS.peers),
        "Daemons on other machines to query for missing blocks (`http://mac-2:8000,…`).",
        env="SEMANTIC_PEERS",
        guarded=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The HTTP server and the log."""

    host: str = setting("127.0.0.1", text("an address or host name"), "Address to listen on.", guarded=True)
    port: int = setting(
        8000, whole(minimum=0, maximum=65535), "Port to listen on; 0: any free one.", guarded=True
    )
    ollama_port: int | None = setting(
        None,
        whole(minimum=1, maximum=65535),
        "Second port, for programs that expect Ollama's API on its default port 11434; none: no second port.",
        guarded=True,
    )
    log_level: str = setting(
        "info", choice("debug", "info", "warning", "error"), "Minimum log level.", guarded=True
    )
    log_format: str = setting(
        "json", choice("json", "console"), "Format of the log file's lines.", env="SEMANTIC_LOG_FORMAT"
    )
    log_console: bool = setting(True, flag(), "Also write the log to stderr.", env="SEMANTIC_LOG_CONSOLE")
    otlp_endpoint: str | None = setting(
        None,
        text("a URL"),
        "OTLP/HTTP URL of the collector that receives traces (needs the extra `otel`); none: no tracing.",
        env="SEMANTIC_OTLP_ENDPOINT",
        guarded=True,
    )
    rate_limit_per_agent: int = setting(
        0, whole(minimum=0), "Requests per minute and agent; 0: no limit.", guarded=True
    )
    rate_limit_global: int = setting(
        0, whole(minimum=0), "Requests per minute and key; 0: no limit.", guarded=True
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        texts("origins, separated by commas"),
        "Origins whose pages may call the server, with `*` as a wildcard (`app://*`); none: CORS is off.",
        guarded=True,
    )
    allowed_hosts: tuple[str, ...] = setting(
        ("localhost", "127.0.0.1", "[::1]"),
        texts("host names, separated by commas"),
        "Host names accepted in the Host header, to prevent DNS rebinding; `*`: any.",
        guarded=True,
    )
    model_patterns: tuple[str, ...] = setting(
        ("claude-*", "gpt-*", "haiku*", "sonnet*", "opus*", "default"),
        texts("shell patterns, separated by commas"),
        "Model names in requests that stand for the current model; case-insensitive.",
        guarded=True,
    )
    strict: bool = setting(
        False,
        flag(),
        "Refuse with 400 what the vendors refuse, and schemas that can be enforced in part only; otherwise such "
        "requests are answered, and the log and a header name what was changed.",
        guarded=True,
    )
    drain_timeout_s: float = setting(
        30.0,
        number(minimum=0, maximum=3600),
        "Seconds to wait for running requests to finish when the daemon stops.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """Keys; never shown, never logged."""

    api_key: tuple[str, ...] = setting(
        (),
        keys(),
        "API keys, one of which clients must send; none: no key is required.",
        env="SEMANTIC_API_KEY",
        secret=True,
    )
    admin_key: str | None = setting(
        None, key(), "Key of the `/admin` routes.", env="SEMANTIC_ADMIN_KEY", secret=True
    )
    peer_key: str | None = setting(
        None,
        key(),
        "API key to send to peers; none: the first key of `SEMANTIC_API_KEY`.",
        env="SEMANTIC_PEER_KEY",
        secret=True,
    )

    @property
    def key_for_peers(self) -> str | None:
        return self.peer_key or next(iter(self.api_key), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Folders other than the cache; a second instance needs its own for runtime and logs."""

    models_dir: Path = setting(
        lambda: Path(platformdirs.user_data_dir(APP, appauthor=False)) / "models",
        folder(),
        "Folder of models.",
        env="SEMANTIC_MODELS_DIR",
        guarded=True,
    )
    runtime_dir: Path = setting(
        default_runtime_dir,
        folder(),
        "Folder of the control socket and the pid file.",
        env="SEMANTIC_RUNTIME_DIR",
        guarded=True,
    )
    log_dir: Path = setting(
        lambda: Path(platformdirs.user_log_dir(APP, appauthor=False)),
        folder(),
        "Folder of the log files.",
        env="SEMANTIC_LOG_DIR",
        guarded=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Recorded requests, for `semanticd bench replay`; off unless a folder is set."""

    dir: Path | None = setting(
        None,
        folder(),
        "Folder for recorded generation requests, including all user text; none: recording is off.",
        guarded=True,
    )
    content: str = setting(
        "full",
        choice("full", "hashed"),
        "How text is recorded: in full, or hashed to letters that preserve length, equality and common prefixes.",
        guarded=True,
    )
    max_mb: int = setting(
        256,
        whole(minimum=1),
        "Maximum MiB of traces in the folder; the oldest files are removed.",
        guarded=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedSettings:
    """One model over several machines; off unless a hostfile is set."""

    hosts: Path | None = setting(
        None,
        file(),
        "MLX's hostfile: the machines that compute one model together, this one first; none: this one alone.",
        guarded=True,
    )
    key: str | None = setting(
        None,
        key(),
        "Shared key of the machines, at least 16 characters; each proves that it knows the key, and never sends it.",
        secret=True,
    )
    port: int = setting(
        8710,
        whole(minimum=1, maximum=65535),
        "Port on the first machine that the others connect to; use it in a private network only.",
        guarded=True,
    )
    ring_port: int = setting(
        8720,
        whole(minimum=1, maximum=65000),
        "First port of the ring: the machine of rank r listens on this port plus r for its neighbours.",
        guarded=True,
    )
    timeout_s: float = setting(
        30.0,
        number(minimum=1, maximum=3600),
        "Maximum seconds for one step, or without a message, before a machine counts as lost.",
        guarded=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one daemon; made once, read only by the composition root."""

    mlx: MlxSettings = field(default_factory=MlxSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    paths: PathSettings = field(default_factory=PathSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The user's own registry entries, TOML `[models.NAME]`, by name; for the models room to read."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The user's own profiles, TOML `[profiles.NAME]`, likewise."""


SECTIONS: Mapping[str, type] = {
    "mlx": MlxSettings,
    "agent": AgentSettings,
    "server": ServerSettings,
    "security": SecuritySettings,
    "paths": PathSettings,
    "trace": TraceSettings,
    "distributed": DistributedSettings,
}


@dataclass(frozen=True, slots=True)
class Declared:
    """One setting as declared: `name` is dotted (`mlx.kv_bits`)."""

    name: str
    env: str
    kind: Kind
    meaning: str
    secret: bool
    guarded: bool
    """Whether it decides about security."""
    default: Any
    """Its default, `dataclasses.MISSING` where that depends on the machine."""

    def read(self, given: object) -> Any:
        """Return the value that a source gave; `none` is the default of a setting that has no other.

        Raises:
            ValueError: It is not what is expected.
        """
        # A key called `none` is a key: taken for no key, it would open the server.
        if self.default in (None, ()) and not self.secret and is_word(given, "none"):
            return self.default
        return self.kind.read(given)

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """Its name within the section."""
        return self.name.partition(".")[2]

    @property
    def flag(self) -> str:
        """Its command-line flag; empty for a secret, which a command line would show to other users."""
        return "" if self.secret else self.as_flag

    @property
    def as_flag(self) -> str:
        """The spelling of its name on a command line, whether it is taken there or not."""
        return "--" + self.name.replace(".", "-").replace("_", "-")


def declared() -> Iterator[Declared]:
    """Yield every setting in the order of this file."""
    for section, cls in SECTIONS.items():
        for one in fields(cls):
            meta = one.metadata
            env = meta["env"] or f"SEMANTIC_{section}_{one.name}".upper()
            yield Declared(
                f"{section}.{one.name}",
                env,
                meta["kind"],
                meta["meaning"],
                meta["secret"],
                meta["guarded"],
                one.default,
            )


def read_setting(settings: Settings, name: str) -> Any:
    """Return a setting's value by its dotted name."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)
