"""The OpenAPI document says what the routes do, and the page asks no other host."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import falcon.inspect

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.operations.openapi import OPERATIONS, make_document
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.http_services import make_services

UNDOCUMENTED = {"/", "/openapi.json", "/docs"}


def document() -> dict[str, Any]:
    return make_document(version="1.2.3")


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    app = create_app(make_services(), HttpConfig())
    routes = {
        (method.method.lower(), re.sub(r":\w+}", "}", route.path))
        for route in falcon.inspect.inspect_routes(app._app)  # type: ignore[arg-type]
        for method in route.methods
        if method.method not in ("HEAD", "OPTIONS") and not method.internal
    }
    described = {(operation.method, operation.path) for operation in OPERATIONS}
    assert {route for route in routes if route[1] not in UNDOCUMENTED} == described


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


def test_the_page_shows_every_path_and_names_no_other_host() -> None:
    client = AsgiClient(create_app(make_services(), HttpConfig(api_keys=("k",))))
    page = asyncio.run(client.get("/docs"))
    text = page.content.decode()
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert all(operation.path in text for operation in OPERATIONS)
    assert not re.findall(r"https?://|<script|<link|<img|@import", text)
    shown = asyncio.run(client.get("/openapi.json")).json
    assert shown["paths"].keys() == document()["paths"].keys()
