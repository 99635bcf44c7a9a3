"""Resources for stored responses: look up, list their input items, delete."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.pages import page_size, word
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.responses.items import DEFAULT_PAGE, MAX_PAGE, page
from semanticd.application.ports.response_archive import StoredResponse
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.domain.errors import InvalidRequestError, NotFoundError


class PreviousResponseNotFoundError(InvalidRequestError):
    """The response that the client wants to continue from is not stored (any more)."""

    code = "previous_response_not_found"


async def previous_of(responses: StoredResponses, response_id: str | None) -> StoredResponse | None:
    """Return the response to continue from, if one is named.

    Raises:
        PreviousResponseNotFoundError: The response is unknown.
    """
    if not response_id:
        return None
    found = await responses.find(response_id)
    if found is None:
        raise PreviousResponseNotFoundError(
            f"Previous response with id '{response_id[:80]}' not found.", param="previous_response_id"
        )
    return found


class KeptResponse:
    """`/v1/responses/{response_id}`: look up and delete."""

    access: ClassVar[Access] = "key"

    def __init__(self, responses: StoredResponses) -> None:
        self._responses = responses

    async def on_get(self, req: Request, resp: Response, response_id: str) -> None:
        """Show a response that is kept."""
        if req.get_param_as_bool("stream"):
            raise InvalidRequestError("a stored response cannot be streamed again", param="stream")
        resp.data = (await _found(self._responses, response_id)).document

    async def on_delete(self, req: Request, resp: Response, response_id: str) -> None:
        """Forget a response."""
        if not await self._responses.forget(response_id):
            raise _not_found(response_id)
        resp.data = msgspec.json.encode({"id": response_id, "object": "response", "deleted": True})


class InputItems:
    """`GET /v1/responses/{response_id}/input_items`: the conversation that a response answered."""

    access: ClassVar[Access] = "key"

    def __init__(self, responses: StoredResponses) -> None:
        self._responses = responses

    async def on_get(self, req: Request, resp: Response, response_id: str) -> None:
        """List a page of the items, the newest first unless `order` is `asc`."""
        order = word(req, "order", allowed=("desc", "asc"))
        limit = page_size(req, default=DEFAULT_PAGE, maximum=MAX_PAGE)
        found = await _found(self._responses, response_id)
        shown = page(
            found.input_items,
            limit=limit,
            newest_first=order == "desc",
            after=req.get_param("after"),
            before=req.get_param("before"),
        )
        resp.data = msgspec.json.encode(shown)


async def _found(responses: StoredResponses, response_id: str) -> StoredResponse:
    found = await responses.find(response_id)
    if found is None:
        raise _not_found(response_id)
    return found


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id[:80]}' not found.", param="response_id")
