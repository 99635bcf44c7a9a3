"""Folders that can be made again are left out of backups and of the search index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semanticd.adapters.exclusions import leave_out

SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"


class System:
    """Runs nothing, and says what the test wants."""

    def __init__(self, status: int = 0, said: str = "") -> None:
        """Answer so."""
        self.answer = (status, said)
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        """Note the command."""
        self.commands.append(command)
        return self.answer


def test_on_macos_a_folder_is_tagged_kept_from_the_index_and_excluded(tmp_path: Path) -> None:
    system = System()
    for _ in range(2):
        assert leave_out(tmp_path, run=system, platform="darwin") is None
    assert (tmp_path / "CACHEDIR.TAG").read_text().startswith(SIGNATURE)
    assert (tmp_path / ".metadata_never_index").read_bytes() == b""
    assert system.commands == [["tmutil", "addexclusion", str(tmp_path)]] * 2


def test_elsewhere_a_folder_is_tagged(tmp_path: Path) -> None:
    system = System()
    assert leave_out(tmp_path, run=system, platform="linux") is None
    assert [path.name for path in tmp_path.iterdir()] == ["CACHEDIR.TAG"]
    assert system.commands == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").write_text("mine")
    target = tmp_path / "elsewhere"
    (tmp_path / ".metadata_never_index").symlink_to(target)
    assert leave_out(tmp_path, run=System(), platform="darwin") is None
    assert (tmp_path / "CACHEDIR.TAG").read_text() == "mine"
    assert not target.exists()


def test_what_could_not_be_done_is_said(tmp_path: Path) -> None:
    failure = leave_out(tmp_path, run=System(1, "Operation not permitted"), platform="darwin")
    assert failure is not None
    assert "Operation not permitted" in failure
    assert leave_out(tmp_path / "missing", run=System(1), platform="darwin") is None
    assert not (tmp_path / "missing").exists()
