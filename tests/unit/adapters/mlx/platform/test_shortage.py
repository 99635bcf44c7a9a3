"""Which of MLX's errors say that memory ran out."""

from __future__ import annotations

import pytest

from semanticd.adapters.mlx.platform.shortage import is_shortage, raising_shortage
from semanticd.domain.errors import OutOfMemoryError

SHORTAGES = [
    "[metal::malloc] Attempting to allocate 20401094656 bytes which is greater than the maximum allowed buffer size of "
    "14302248960 bytes.",
    "[malloc] Unable to allocate 137438953472 bytes.",
    "[malloc_or_wait] Unable to allocate 17179869184 bytes.",
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "cudaMallocAsync failed: out of memory.",
    "cudaMallocManaged(&data, size) failed: out of memory",
    "cublasLtMatmul failed: CUBLAS_STATUS_ALLOC_FAILED",
]


@pytest.mark.parametrize("text", SHORTAGES)
def test_running_out_of_memory_is_told_from_other_errors(text: str) -> None:
    assert is_shortage(RuntimeError(text))

    @raising_shortage
    def compute() -> None:
        raise RuntimeError(text)

    with pytest.raises(OutOfMemoryError, match="ran out of memory"):
        compute()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[matmul] Last dimension of first input with shape (1,2) must match"),
        RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"),
        ValueError("out of memory"),
        KeyError("malloc]"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_shortage(error)

    @raising_shortage
    def compute() -> None:
        raise error

    with pytest.raises(type(error)):
        compute()


def test_python_too_may_run_out() -> None:
    assert is_shortage(MemoryError())
