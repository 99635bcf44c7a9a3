"""What `semanticd worker` takes for the address of a daemon, and for a rank."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from semanticd.domain.errors import ConfigurationError
from semanticd.entrypoints.cli.worker import worker
from semanticd.entrypoints.worker import read_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", ("10.0.0.1", 8710)),
        ("10.0.0.1:9000", ("10.0.0.1", 9000)),
        ("mac-1.local", ("mac-1.local", 8710)),
        ("mac_1.example.org.:9000", ("mac_1.example.org.", 9000)),
        ("localhost:1", ("localhost", 1)),
        ("fd00::1", ("fd00::1", 8710)),
        ("[fd00::1]", ("fd00::1", 8710)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
        ("[fe80::1%en0]:9000", ("fe80::1%en0", 9000)),
        ("mäc.local", ("mäc.local", 8710)),
    ],
)
def test_an_address_is_a_host_with_or_without_a_port(text: str, address: tuple[str, int]) -> None:
    assert read_address(text, port=8710) == address


@pytest.mark.parametrize(
    "text",
    [
        "", ":9000", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "10.0.0.1:" + "9" * 5000,
        "a b", "a..b", ".a", "user@mac-1", "mac-1?x", "0.0.0.0", "::", "[::]:9000", "239.1.2.3", "[::1", "::1]",
        "[mac-1", "x" * 300, "\x1b[31m",
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_anything_else_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigurationError, match="give HOST or HOST:PORT"):
        read_address(text, port=8710)


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8000", "http://mac-1", "mac-1/v1", "//mac-1", "/tmp/hosts.json"]
)
def test_urls_and_paths_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigurationError, match="give HOST or HOST:PORT, without http:// or a path"):
        read_address(text, port=8710)


@pytest.mark.parametrize("rank", ["0", "16", "99", "-1", "one"])
def test_ranks_that_no_worker_can_have_are_refused_at_once(rank: str) -> None:
    ran = CliRunner().invoke(worker, ["10.0.0.1", "--rank", rank])
    assert ran.exit_code == 2
    assert "'--rank'" in ran.output
