"""What a client's form may cost, and that the engine thread pays nothing of it."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import Any

import pytest

from semanticd.adapters.mlx.constraints.compile import ConstraintCompiler
from semanticd.adapters.mlx.constraints.schema_size import largest_opening
from semanticd.adapters.mlx.constraints.trial import TooComplexError, TrialProcess, is_plain
from semanticd.adapters.mlx.model.weights import load_tokenizer
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.limits import LIMITS, Limits
from tests.fakes.tiny_folder import write_tiny_model

ITSELF = {"$ref": "#/$defs/a"}


def member(number: int) -> dict[str, Any]:
    key = f"k{number}"
    return {
        "type": "object",
        "properties": {key: ITSELF},
        "required": [key],
        "additionalProperties": False,
    }


def union(*alternatives: Any) -> dict[str, Any]:
    return {"$defs": {"a": {"anyOf": [{"type": "string"}, *alternatives]}}, **ITSELF}


SELF_REFERENCES = union(*[ITSELF] * 16)
VARIANTS = union(*map(member, range(30)))
PATTERNS = {"allOf": [{"type": "string", "pattern": f".*[a-z]{{{n}}}.*{n}"} for n in range(3, 18)]}


def form(schema: Any, **more: Any) -> OutputConstraint:
    return OutputConstraint("json_schema", schema=schema, **more)


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tiny_model(tmp_path_factory.mktemp("forms") / "model")).backend_tokenizer


def make_compiler(backend: Any, **limits: Any) -> ConstraintCompiler:
    return ConstraintCompiler(backend, vocab_size=512, eos_token_ids=[0], limits=replace(LIMITS, **limits))


@pytest.mark.parametrize("schema", [SELF_REFERENCES, VARIANTS], ids=["self references", "30 variants"])
def test_alternatives_that_lead_back_are_looked_at_once_each(schema: Any) -> None:
    # 16 self-references were followed along each of 16 to the 8th ways: minutes.
    found = largest_opening(form(schema), max_steps=2_000)
    assert found is not None
    assert found > 0


def test_a_schema_of_too_many_parts_is_compiled_without_an_estimate(backend: Any) -> None:
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(50)}}
    assert largest_opening(form(wide), max_steps=10) is None
    assert largest_opening(form(wide), max_steps=1_000) is not None
    assert make_compiler(backend, form_steps=10).compile(form(wide)).compiled.opening is None


@pytest.mark.parametrize("schema", [SELF_REFERENCES, VARIANTS], ids=["self references", "30 variants"])
def test_the_engine_thread_only_copies_what_was_compiled(backend: Any, schema: Any) -> None:
    compiled = make_compiler(backend).compile(form(schema, max_tokens=50))
    # Another compiler with no room for anything: it would have to compile, and would refuse.
    nothing = make_compiler(backend, form_bytes=0, form_steps=0)
    assert nothing.processor(compiled, num_context=1) is not None
    with pytest.raises(UnsupportedError):
        nothing.processor(form(schema), num_context=1)


def test_equal_forms_are_compiled_once_and_a_refusal_is_remembered(backend: Any) -> None:
    compiler = make_compiler(backend)
    first = compiler.compile(form(VARIANTS))
    again = compiler.find(form(union(*map(member, range(30))), max_tokens=7))
    assert again is not None
    assert (again.compiled is first.compiled, again.max_tokens) == (True, 7)
    assert compiler.find(form({"type": "null"})) is None
    bad = form({"type": "foo"})
    for ask in (compiler.compile, compiler.find):
        with pytest.raises(UnsupportedError, match=r"cannot be enforced: .*foo"):
            ask(bad)


def test_kept_forms_are_bounded_in_bytes(backend: Any) -> None:
    compiler = make_compiler(backend, form_cache_bytes=200_000)
    forms = [form({"const": "x" * 200 + str(number)}) for number in range(20)]
    for each in forms:
        assert compiler.compile(each).compiled is not None
        assert compiler.num_cached_bytes <= 200_000
    assert compiler.find(forms[0]) is None
    assert compiler.find(forms[-1]) is not None


@pytest.mark.parametrize(
    ("limits", "schema", "reason"),
    [
        ({"form_bytes": 100}, {"enum": ["x" * 100]}, "100 is the most"),
        ({"form_properties": 2}, {"anyOf": [{"properties": {key: {} for key in "abc"}}]}, "2 are the most"),
        (
            {"form_counted_properties": 2},
            {"properties": {key: {} for key in "abc"}, "minProperties": 1, "required": list("abc")},
            "minProperties is taken with at most 2",
        ),
    ],
)
def test_a_form_that_is_too_large_is_refused_with_the_limit(
    backend: Any, limits: dict[str, Any], schema: Any, reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        make_compiler(backend, **limits).compile(form(schema))
    make_compiler(backend).compile(form(schema))


def test_patterns_that_would_take_hours_are_refused_as_too_complex(backend: Any) -> None:
    compiler = make_compiler(backend, form_compile_s=1.0)
    with pytest.raises(UnsupportedError, match="too complex") as refusal:
        compiler.compile(form(PATTERNS))
    assert refusal.value.param == "response_format"
    # The process that was ended is replaced.
    two = {"allOf": PATTERNS["allOf"][:2]}
    assert compiler.compile(form(two)).compiled is not None
    with pytest.raises(UnsupportedError, match="too complex"):
        compiler.find(form(PATTERNS))


def test_the_process_that_tries_forms_says_why_one_is_refused() -> None:
    process = TrialProcess(timeout_s=5)
    try:
        assert process.refusal("start: /a+/") == ""
        assert "nowhere" in process.refusal("start: nowhere")
        assert process.refusal('start: "\u00e9"') == ""
    finally:
        process.close()
        process.close()
    assert process.refusal("start: /b/") == ""
    process.close()


def test_a_process_that_dies_counts_as_too_complex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    process = TrialProcess(timeout_s=5)
    with pytest.raises(TooComplexError):
        process.refusal("start: /a/")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not bound address space")
def test_a_process_gets_no_more_address_space_than_its_limit() -> None:
    # So little that the grammar engine cannot be loaded.
    process = TrialProcess(timeout_s=30, max_bytes=1 << 20)
    with pytest.raises(TooComplexError):
        process.refusal("start: /a/")


def test_forms_are_tried_by_several_threads_in_turn() -> None:
    process = TrialProcess(timeout_s=5)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(process.refusal("start: /a/"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.close()
    assert found == [""] * 6


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        (VARIANTS, True),
        ({"properties": {"pattern": {"type": "string"}, "allOf": {"enum": [{"not": 1}]}}}, True),
        ({"properties": {"a": {"type": "string", "pattern": "a"}}}, False),
        ({"$defs": {"not": {"items": [{"not": {}}]}}}, False),
        (True, True),
    ],
)
def test_only_words_of_known_cost_are_plain(schema: Any, plain: bool) -> None:
    assert is_plain(schema) == plain


def test_the_limits_of_forms_can_be_met_by_honest_schemas() -> None:
    assert isinstance(LIMITS, Limits)
    assert LIMITS.form_properties >= 1_500
    assert LIMITS.form_bytes >= 256 * 1024
