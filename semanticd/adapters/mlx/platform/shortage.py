"""Distinguishes MLX's out-of-memory from its other errors: all of them are RuntimeErrors, so their words decide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import ParamSpec

from semanticd.domain.errors import OutOfMemoryError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_WORDS = (
    "malloc]",  # "[metal::malloc] Attempting to allocate …", "[malloc] Unable to allocate …"
    "malloc_or_wait]",
    "insufficient memory",  # "[METAL] Command buffer execution failed: Insufficient Memory (0000000…"
    "erroroutofmemory",  # "… kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    "out of memory",  # "cudaMallocAsync failed: out of memory", cuBLAS's and cuDNN's
    "cuda_error_out_of_memory",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "std::bad_alloc",
)


def is_shortage(error: BaseException) -> bool:
    """Return whether an error means a lack of memory."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def raising_shortage(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a function whose out-of-memory errors are `OutOfMemoryError`; others are unchanged."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            raise OutOfMemoryError(
                f"the machine ran out of memory while it computed this request ({str(error)[:200]}); close other "
                "programs, lower SEMANTIC_MLX_CACHE_BUDGET_MB, or serve a smaller model",
                retry_after_s=10.0,
            ) from error

    return run
