"""What a client's form may cost, and that the engine thread pays nothing of it."""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.constraints import trial
from semanticd.adapters.mlx.constraints.compile import ConstraintCompiler
from semanticd.adapters.mlx.constraints.processor import ConstraintProcessor
from semanticd.adapters.mlx.constraints.schema_size import largest_opening
from semanticd.adapters.mlx.constraints.trial import TooComplexError, TrialProcess, is_plain
from semanticd.adapters.mlx.constraints.trial_process import heap_bytes
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


def objects(number: int, **member: Any) -> dict[str, Any]:
    """Return an object of 40 members, which no other number's has."""
    return {"type": "object", "properties": {f"p{number}_{n}": member for n in range(40)}}


def tools(*schemas: Any) -> OutputConstraint:
    """Return the form of a call with arguments of one of the schemas."""
    rules = "".join(f"t{n}: %json {json.dumps(schema)}\n" for n, schema in enumerate(schemas))
    return OutputConstraint(
        "tool_call", grammar=f"start: {' | '.join(f't{n}' for n in range(len(schemas)))}\n{rules}"
    )


LETTERS = [*(rf"\p{{L}}{{{n}}}x" for n in range(1, 40))]
KINDS: dict[str, Callable[[int], OutputConstraint]] = {
    "text": lambda n: form({"const": f"text {n}"}),
    "texts": lambda n: form({"enum": [f"text {n} {k}" for k in range(100)]}),
    "any object": lambda n: form({"type": "object", "description": f"{n}"}),
    "members": lambda n: form(objects(n, type="string")),
    "integers": lambda n: form(objects(n, type="integer", minimum=n * 77, maximum=10**9 + n)),
    "numbers": lambda n: form(objects(n, type="number", minimum=n / 7, maximum=1e9 + n / 7)),
    "lengths": lambda n: form(objects(n, type="string", minLength=n, maxLength=1000 + n)),
    "arrays": lambda n: form(objects(n, type="array", items={"type": "integer"}, minItems=n, maxItems=1000)),
    "array": lambda n: form(
        {"type": "array", "items": {"type": "string"}, "minItems": 500 + n, "maxItems": 20_000}
    ),
    "nested": lambda n: form(
        {"type": "object", "properties": {f"o{k}": objects(n, type="null") for k in "ab"}}
    ),
    "union": lambda n: form(union(*(member(1000 * n + k) for k in range(30)))),
    "pattern": lambda n: form({"type": "string", "pattern": rf"^\p{{L}}{{1,{n + 10}}}$"}),
    "formats": lambda n: form(objects(n, type="string", format="date-time")),
    "regex": lambda n: OutputConstraint("regex", grammar=rf"\p{{Lu}}+{n}"),
    "rules": lambda n: OutputConstraint("lark", grammar="start: " + " | ".join(f"/{p}{n}/" for p in LETTERS)),
    "tool": lambda n: tools(objects(n, type="string")),
    "tools": lambda n: tools(
        *(objects(100 * n + k, type="string", description="What it is.") for k in range(10))
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
@pytest.mark.parametrize("kind", KINDS)
def test_kept_forms_take_no_more_memory_than_is_counted(backend: Any, kind: str) -> None:
    # Forms with Unicode classes took 18 times what was counted: 64 MiB of them were a gigabyte.
    compiler = make_compiler(backend)
    compiler.compile(form({"type": "null", "pattern": "a"}))
    gc.collect()
    before, counted = heap_bytes(), compiler.num_cached_bytes
    for number in range(8):
        compiler.compile(KINDS[kind](number))
    gc.collect()
    taken, counted = heap_bytes() - before, compiler.num_cached_bytes - counted
    assert 0 < taken <= counted


def follow(compiler: ConstraintCompiler, constraint: OutputConstraint, ids: list[int]) -> ConstraintProcessor:
    """Follow a form along an answer's tokens, as a request does."""
    processor = compiler.processor(compiler.compile(constraint), num_context=0)
    assert processor.needs_last(ids)
    return processor


def next_tokens(processor: ConstraintProcessor) -> set[int]:
    """Return the tokens that may follow what the processor has seen."""
    mask = processor.mask([], None, size=512)
    assert mask is not None
    return {token for token in range(32 * len(mask)) if mask[token // 32] >> token % 32 & 1}


MANY_STATES = OutputConstraint("regex", grammar="[ab]*a[ab]{20}c")
"""Nearly each letter leads the lexer to a state where it never was."""


def test_what_earlier_answers_taught_a_form_ends_no_later_one(backend: Any) -> None:
    # Copies share a lexer: after 250,000 states it refused every answer of the form, which ended in the middle.
    compiler, rng = make_compiler(backend), random.Random(1)
    letters = [backend.encode(letter).ids[0] for letter in "ab"]
    for _ in range(100):
        processor = follow(compiler, MANY_STATES, rng.choices(letters, k=3_000))
        assert set(letters) <= next_tokens(processor)


def test_a_form_whose_lexer_gave_up_is_compiled_again(backend: Any) -> None:
    compiler, rng = make_compiler(backend), random.Random(1)
    letters = [backend.encode(letter).ids[0] for letter in "ab"]
    form = compiler.compile(MANY_STATES).compiled
    processor = follow(compiler, MANY_STATES, rng.choices(letters, k=300_000))
    assert next_tokens(processor) == {0}  # the end of the answer
    assert compiler.find(MANY_STATES) is None
    assert compiler.compile(MANY_STATES).compiled is not form


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_a_kept_form_learns_is_counted_and_bounded(backend: Any) -> None:
    # 300,000 tokens of answers left 180 MB with one form, which was counted at 36 KB.
    compiler, rng = make_compiler(backend), random.Random(1)
    letters = [backend.encode(letter).ids[0] for letter in "ab"]
    follow(compiler, MANY_STATES, letters)
    gc.collect()
    before, counted = heap_bytes(), compiler.num_cached_bytes
    for _ in range(3):
        follow(compiler, MANY_STATES, rng.choices(letters, k=1_000))
    assert compiler.find(MANY_STATES) is not None
    gc.collect()
    assert 0 < heap_bytes() - before <= compiler.num_cached_bytes - counted
    for _ in range(100):
        follow(compiler, MANY_STATES, rng.choices(letters, k=3_000))
    gc.collect()
    assert heap_bytes() - before < 16 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_a_form_that_takes_much_memory_for_as_long_as_it_is_kept_is_refused(backend: Any) -> None:
    # A waiting request holds its form: a queue of them, of 100 MiB each, was compiled in 2 s each.
    heavy = OutputConstraint("lark", grammar="start: " + " | ".join(f"/{pattern}/" for pattern in LETTERS))
    compiler = make_compiler(backend, form_memory_bytes=1 << 20)
    for ask in (compiler.compile, compiler.find):
        with pytest.raises(
            UnsupportedError, match=r"too complex: compiled it takes \d+ MiB, and 1 MiB is the maximum"
        ):
            ask(heavy)
    assert make_compiler(backend).compile(heavy).compiled is not None


@pytest.mark.parametrize(
    ("limits", "schema", "reason"),
    [
        ({"form_bytes": 100}, {"enum": ["x" * 100]}, "100 is the maximum"),
        ({"form_properties": 2}, {"anyOf": [{"properties": {key: {} for key in "abc"}}]}, "2 is the maximum"),
        (
            {"form_counted_properties": 2},
            {"properties": {key: {} for key in "abc"}, "minProperties": 1, "required": list("abc")},
            "minProperties is supported with at most 2",
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


def test_a_form_whose_trial_does_not_end_is_refused_after_its_time(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes no memory either: nothing but the time ends it.
    program = tmp_path / "trial.py"
    program.write_text(
        "import sys, time\nsys.stdout.buffer.write(bytes(4))\nsys.stdout.buffer.flush()\ntime.sleep(3600)\n"
    )
    monkeypatch.setattr(trial, "PROGRAM", program)
    compiler = make_compiler(backend, form_compile_s=0.2)
    with pytest.raises(UnsupportedError, match=r"it was not compiled within 0\.2 s"):
        compiler.compile(form({"type": "string", "pattern": "a+"}))


def test_the_process_that_tries_forms_says_why_one_is_refused() -> None:
    process = TrialProcess(timeout_s=60)
    try:
        assert process.attempt("start: /a+/").refusal == ""
        assert "nowhere" in process.attempt("start: nowhere").refusal
        assert process.attempt('start: "\u00e9"').refusal == ""
    finally:
        process.close()
        process.close()
    assert process.attempt("start: /b/").refusal == ""
    process.close()


def test_a_process_that_dies_counts_as_too_complex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    process = TrialProcess(timeout_s=60)
    with pytest.raises(TooComplexError):
        process.attempt("start: /a/")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not bound address space")
def test_a_process_gets_no_more_address_space_than_its_limit() -> None:
    # So little that the grammar engine cannot be loaded.
    process = TrialProcess(timeout_s=60, max_bytes=1 << 20)
    with pytest.raises(TooComplexError):
        process.attempt("start: /a/")


def test_forms_are_tried_by_several_threads_in_turn() -> None:
    process = TrialProcess(timeout_s=60)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(process.attempt("start: /a/").refusal)) for _ in range(6)
    ]
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
