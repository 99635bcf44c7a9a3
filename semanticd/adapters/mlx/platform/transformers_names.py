"""Lets `transformers` find the names that it offers in a tenth of the time, while it is imported.

As it is imported, it reads the 2,500 sources of its 550 models for what each exports. It looks at every line of them
for the last `__all__`, and does all of it twice, because it remembers 128 folders only. The result stays the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

_MODULE = "transformers.utils.import_utils"
_MARK = "\n__all__"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the module that reads the sources, and makes it quick."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then change it."""
        super().exec_module(module)
        _make_quick(module)


class _Finder:
    """Finds that one module, and leaves all others to Python."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module as Python finds it, with a loader of our own; None for any other."""
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if (
            spec is None
            or spec.origin is None
            or type(spec.loader) is not importlib.machinery.SourceFileLoader
        ):
            return spec
        spec.loader = _Loader(name, spec.origin)
        return spec


@contextlib.contextmanager
def quick_names() -> Iterator[None]:
    """Speed up the first import of `transformers` inside the context; its cached sources are freed at the end."""
    if _MODULE in sys.modules:
        yield
        return
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)
        structure = getattr(sys.modules.get(_MODULE), "create_import_structure_from_path", None)
        if structure is not None and hasattr(structure, "cache_clear"):
            structure.cache_clear()


def _make_quick(module: ModuleType) -> None:
    """Change the two functions that read the sources; a release that has them no more stays as it is."""
    read = getattr(module, "fetch__all__", None)
    structure = getattr(module, "create_import_structure_from_path", None)
    if read is None or structure is None:
        return
    module.fetch__all__ = from_the_last(read)  # type: ignore[attr-defined]
    module.create_import_structure_from_path = functools.cache(  # type: ignore[attr-defined]
        getattr(structure, "__wrapped__", structure)
    )


def from_the_last(read: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Return `read` for the end of a source only, where the last line that begins with `__all__` is the first one."""

    @functools.wraps(read)
    def read_the_end(file_content: str) -> list[str]:
        place = file_content.rfind(_MARK)
        return read(file_content if place < 0 else file_content[place + 1 :])

    return read_the_end
