"""Where the control socket is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semanticd.control import address
from semanticd.control.address import (
    SocketPathTooLongError,
    default_runtime_dir,
    default_socket_path,
    socket_path_in,
)


def test_a_named_folder_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_socket_path({"SEMANTIC_RUNTIME_DIR": "/run/mine"}) == Path("/run/mine/semanticd.sock")
    assert default_runtime_dir({"SEMANTIC_RUNTIME_DIR": "~/x"}) == Path.home() / "x"
    assert default_runtime_dir({"SEMANTIC_RUNTIME_DIR": "~nosuchuser/x"}) == Path.cwd() / "~nosuchuser" / "x"
    monkeypatch.setenv("SEMANTIC_RUNTIME_DIR", "/run/other")
    assert default_socket_path() == Path("/run/other/semanticd.sock")


def test_linux_goes_by_the_login_session_and_falls_back_to_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.sys, "platform", "linux")
    assert default_runtime_dir({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/semanticd")
    monkeypatch.setattr(address.os, "access", lambda *_: True)
    assert default_runtime_dir({}) == Path(f"/run/user/{os.getuid()}/semanticd")
    monkeypatch.setattr(address.os, "access", lambda *_: False)
    assert default_runtime_dir({}) == Path(f"/tmp/semanticd-{os.getuid()}")


def test_macos_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.sys, "platform", "darwin")
    found = default_runtime_dir({"XDG_RUNTIME_DIR": "/not/used"})
    assert found == Path.home() / "Library/Application Support/semanticd/run"


def test_a_path_that_no_socket_can_have_is_explained() -> None:
    longest = Path("/" + "x" * (103 - len("//semanticd.sock")))
    assert len(os.fsencode(socket_path_in(longest))) == 103
    with pytest.raises(SocketPathTooLongError, match="SEMANTIC_RUNTIME_DIR"):
        socket_path_in(longest.with_name(longest.name + "y"))
    with pytest.raises(SocketPathTooLongError, match="bytes"):
        socket_path_in(Path("/" + "ü" * 50))
