"""Lists are read a page at a time; a size that cannot be is refused, wherever it is asked."""

from __future__ import annotations

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.http_services import make_services

ANTHROPIC = {"anthropic-version": "2023-06-01"}
LISTS = [("/v1/agents", {}, 1000), ("/v1/models", ANTHROPIC, 1000), ("/v1/responses/{}/input_items", {}, 100)]

BAD_LIMITS = [
    *("0", "-1", "x", "1.5", "%C2%B2", "%D9%A1", "9" * 5000),
    *("000000001" + "0" * 4300, "00001" + "0" * 4300, "1" + "0" * 300),
]


async def page(path: str, limit: str, headers: dict[str, str]) -> tuple[int, str]:
    asked = AsgiClient(create_app(make_services(), HttpConfig()))
    made = (await asked.post("/v1/responses", {"model": "tiny", "input": "hi"})).json
    answer = await asked.get(f"{path.format(made['id'])}?limit={limit}", headers=headers)
    return answer.status, answer.content.decode()


@pytest.mark.parametrize(("path", "headers", "maximum"), LISTS)
@pytest.mark.parametrize("limit", BAD_LIMITS, ids=lambda limit: limit[:12])
async def test_a_size_that_cannot_be_is_refused(
    path: str, headers: dict[str, str], maximum: int, limit: str
) -> None:
    status, text = await page(path, limit, headers)
    assert status == 400
    assert f"expected a number from 1 to {maximum}" in text


@pytest.mark.parametrize(("path", "headers", "maximum"), LISTS)
async def test_sizes_up_to_the_largest_are_answered(path: str, headers: dict[str, str], maximum: int) -> None:
    for limit in ("", "1", "01", str(maximum)):
        assert (await page(path, limit, headers))[0] == 200
    assert (await page(path, str(maximum + 1), headers))[0] == 400
