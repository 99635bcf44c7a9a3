"""The OpenAPI document says what the routes do, and the page asks no other host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from semanticd.adapters.http.app import ENDPOINTS, create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.operations.openapi import make_document
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.http_services import make_services

UNDOCUMENTED = {"/", "/openapi.json", "/docs"}


def document() -> dict[str, Any]:
    return make_document(ENDPOINTS, version="1.2.3")


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    app = create_app(make_services(), HttpConfig())
    routes = {
        (method.lower(), re.sub(r":\w+}", "}", route.template))
        for route, methods in app.router.routes.items()
        for method in methods
        if method not in ("HEAD", "OPTIONS")
    }
    described = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert {route for route in routes if route[1] not in UNDOCUMENTED} == described


def test_the_document_asks_for_the_keys_that_the_routes_declare() -> None:
    described = {
        (path, method): operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }
    for route, methods in create_app(make_services(), HttpConfig()).router.routes.items():
        if route.template in UNDOCUMENTED:
            assert route.access == "open"
            continue
        path = re.sub(r":\w+}", "}", route.template)
        for method in set(methods) - {"HEAD", "OPTIONS"}:
            asked = [name for way in described[path, method.lower()]["security"] for name in way]
            assert (
                asked
                == {"admin": ["admin"], "key": ["bearer", "key"], "peer": ["bearer", "key"], "open": []}[
                    route.access
                ]
            ), path


def parts_of(value: Any) -> Iterator[dict[str, Any]]:
    """Return all objects within a value, itself first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts_of(inner)


def test_every_number_in_a_body_or_a_query_has_bounds() -> None:
    made = document()
    schemas = made["components"]["schemas"]
    asked: list[Any] = [
        {"body": operation.get("requestBody"), "query": operation.get("parameters")}
        for methods in made["paths"].values()
        for operation in methods.values()
    ]
    seen: set[str] = set()
    num_numbers = 0
    for schema in asked:
        for part in parts_of(schema):
            if (name := str(part.get("$ref", "")).rpartition("/")[2]) and name not in seen:
                seen.add(name)
                asked.append(schemas[name])
            if part.get("type") in ("number", "integer"):
                num_numbers += 1
                assert {"minimum", "exclusiveMinimum"} & set(part), (schema, part)
                assert {"maximum", "exclusiveMaximum"} & set(part), (schema, part)
    assert num_numbers > 50


def test_every_reference_leads_somewhere() -> None:
    made = document()
    text = json.dumps(made)
    names = set(re.findall(r"#/components/schemas/([^\"]+)", text))
    assert names <= set(made["components"]["schemas"])
    assert made["openapi"] == "3.1.0"
    operations = [operation for path in made["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))


def test_the_document_is_made_from_the_wire_types() -> None:
    schema = document()["components"]["schemas"]["MessagesRequest"]
    assert set(schema["required"]) == {"model", "messages", "max_tokens"}
    assert {"type": "null"} in schema["properties"]["system"]["anyOf"]


async def test_the_page_shows_every_path_and_names_no_other_host() -> None:
    client = AsgiClient(create_app(make_services(), HttpConfig(api_keys=("k",))))
    page = await client.get("/docs")
    text = page.content.decode()
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert all(endpoint.path in text for endpoint in ENDPOINTS)
    assert not re.findall(r"https?://|<script|<link|<img|@import", text)
    shown = (await client.get("/openapi.json")).json
    assert shown["paths"].keys() == document()["paths"].keys()
