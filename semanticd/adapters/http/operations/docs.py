"""`/openapi.json` and `/docs`: the reference, written out here so that no other host is ever asked.

It is made when it is first asked for: it takes a tenth of a second that a start need not wait for.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.routes import Access

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8884; border-radius: 6px; }
details { border-top: 1px solid #8884; padding: .5rem 0; }
summary { cursor: pointer; }
summary b { display: inline-block; width: 4.5rem; text-transform: uppercase; }
"""


class OpenApi:
    """`/openapi.json`."""

    access: ClassVar[Access] = "open"

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document

    @cached_property
    def _content(self) -> bytes:
        return msgspec.json.encode(self._document())

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer with the document."""
        resp.data = self._content


class Docs:
    """`/docs`: a page for people."""

    access: ClassVar[Access] = "open"

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document

    @cached_property
    def _content(self) -> bytes:
        return render_page(self._document()).encode()

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer with the page."""
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("Content-Security-Policy", POLICY)
        resp.data = self._content


def render_page(document: dict[str, Any]) -> str:
    """Return the reference as one page of HTML without scripts."""
    info = document["info"]
    operations = "\n".join(
        _render_operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "\n".join(
        f'<details id="{html.escape(name)}"><summary><code>{html.escape(name)}</code> '
        f"{html.escape(schema.get('description', ''))}</summary>{_render_json(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    title = f"{html.escape(info['title'])} {html.escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(info['description'])} "
        'The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<h2>Paths</h2>{operations}<h2>Types</h2>{schemas}</body></html>"
    )


def _render_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    details = {
        key: operation[key] for key in ("parameters", "requestBody", "responses") if operation.get(key)
    }
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation['summary'])}</summary>{_render_json(details)}</details>"
    )


def _render_json(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
