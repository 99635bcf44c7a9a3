"""The router with the access rule of each resource: a resource without one cannot be added.

`access` is declared by each resource's class. A path that leads nowhere needs a key like everything else, so that
only a caller who may ask learns what exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from falcon.routing import CompiledRouter

Access = Literal["open", "key", "peer", "admin"]
"""`open`: no key is needed; `key`: an API key, where there are any; `peer`: an API key, and without any this machine
only; `admin`: the admin key."""

COUNTED = ("/v1/", "/api/", "/tokenize", "/detokenize")
"""Beginnings of paths that are rate limited and traced."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route: its template, such as `/v1/agents/{agent_id}`, and its access rule."""

    template: str
    access: Access

    @property
    def is_api(self) -> bool:
        """Whether the route serves API requests, which are rate limited and traced."""
        return self.access != "peer" and self.template.startswith(COUNTED)


UNKNOWN = Route("other", "key")
"""Route of a path that matches no template."""


class UndeclaredAccessError(TypeError):
    """A resource has no access rule."""


class DeclaredRouter(CompiledRouter):
    """Falcon's router for resources that declare their access; the same table answers the guards."""

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, Route] = {}
        self._methods: dict[str, tuple[str, ...]] = {}

    def add_route(self, uri_template: str, resource: object, **kwargs: Any) -> None:
        """Add a route.

        Raises:
            UndeclaredAccessError: the resource's class has no `access`, or one that is unknown.
        """
        access: Access | None = getattr(type(resource), "access", None)
        if access is None or access not in get_args(Access):
            raise UndeclaredAccessError(
                f"adding {uri_template}: {type(resource).__name__} must declare `access` as one of {get_args(Access)}"
            )
        self._declared[uri_template] = Route(uri_template, access)
        self._methods[uri_template] = tuple(
            sorted(self.map_http_methods(resource, suffix=kwargs.get("suffix")))
        )
        super().add_route(uri_template, resource, **kwargs)

    def match(self, path: str) -> Route:
        """Return where a canonical path leads."""
        found = self.find(path)
        if found is None or found[3] is None:
            return UNKNOWN
        return self._declared[found[3]]

    @property
    def routes(self) -> Mapping[Route, tuple[str, ...]]:
        """All routes with the methods that their resources answer."""
        return {route: self._methods[template] for template, route in self._declared.items()}
