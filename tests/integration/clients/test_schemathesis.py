"""schemathesis over the reference: whatever the schema allows is answered without a 5xx and as the reference says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

# Not checked: that every body the schema allows is accepted. Tools to choose from, or one of two fields, are conditions
# that the wire types do not say.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def url() -> Iterator[str]:
    with serving(create_app(make_services(ScriptedGenerator()), HttpConfig())) as address:
        yield address


@pytest.mark.parametrize(
    ("phases", "num_examples", "at_least"),
    [
        pytest.param("fuzzing", 2, 40, id="few"),
        pytest.param("coverage,fuzzing", 20, 2000, id="thousands", marks=pytest.mark.slow),
    ],
)
def test_schemathesis_finds_no_5xx_and_no_violation_of_the_reference(
    python_libraries: Path, url: str, run: Callable[..., str], phases: str, num_examples: int, at_least: int
) -> None:
    options = ["--checks", CHECKS, "--seed", "1", "--phases", phases, "--max-examples", str(num_examples)]
    options += ["--exclude-path-regex", "import|export"]
    output = run([python_libraries / "schemathesis", "run", f"{url}/openapi.json", *options])
    num_passed = int(output.rsplit(" passed", 1)[0].rsplit(" ", 1)[1])
    assert num_passed >= at_least
