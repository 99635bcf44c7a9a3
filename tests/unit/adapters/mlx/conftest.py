"""Tokenizers of small folders, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.mlx.model.weights import load_tokenizer
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from tests.fakes.tiny_folder import write_tiny_model

MakeTokenizer = Callable[..., MlxTokenizer]


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MakeTokenizer:
    """Return a function that loads the tiny tokenizer with another template or with more special tokens."""
    source = write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")

    def make(
        template: str | None = None,
        *,
        tokens: tuple[str, ...] = (),
        special: bool = False,
        canonicalize: bool = True,
        literal_content: bool = True,
        around: tuple[str, str] | None = None,
        tool_parser: str | None = None,
    ) -> MlxTokenizer:
        folder = tmp_path_factory.mktemp("tokenizer")
        for path in Path(source).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        if template is not None:
            settings["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if tokens:
            data = json.loads((folder / "tokenizer.json").read_text())
            size = len(data["model"]["vocab"]) + len(data["added_tokens"])
            for number, token in enumerate(tokens):
                one = {**data["added_tokens"][0], "id": size + number, "content": token, "special": special}
                data["added_tokens"].append(one)
            if around is not None:
                data["post_processor"] = _around(
                    *around, ids={t["content"]: t["id"] for t in data["added_tokens"]}
                )
            (folder / "tokenizer.json").write_text(json.dumps(data))
        return MlxTokenizer(
            load_tokenizer(folder),
            tool_parser=tool_parser,
            canonicalize=canonicalize,
            literal_content=literal_content,
        )

    return make


def _around(before: str, after: str, *, ids: dict[str, int]) -> dict[str, object]:
    """Return the post-processor that puts these tokens around every text."""
    steps = [{"SpecialToken": {"id": before, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    steps.append({"SpecialToken": {"id": after, "type_id": 0}})
    tokens = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in (before, after)}
    return {"type": "TemplateProcessing", "single": steps, "pair": steps, "special_tokens": tokens}


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: MakeTokenizer) -> MlxTokenizer:
    """The tiny model's own tokenizer, whose template knows tools."""
    return make_tokenizer()
