"""The examples of the pages, typed by a newcomer: each runs, in the page's order, and prints what the page shows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.example_home import ExampleHome
from tests.docs.markdown_page import RUNNABLE, Block, Page, matches, read_page

ROOT = Path(__file__).resolve().parents[2]
# Pages whose examples have their own tests, next to those of the feature.
ELSEWHERE = {"integrations.md", "benchmarks.md", "dashboard.md", "metrics.md"}
PAGES = [
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name not in ELSEWHERE and any(block.language in RUNNABLE for block in read_page(path).blocks)
]
# Pages that begin without a daemon, and start one themselves.
FROM_NOTHING = [ROOT / "docs" / f"{name}.md" for name in ("quick-start", "model-onboarding", "deployment")]
WITH_DAEMON = [path for path in PAGES if path not in FROM_NOTHING]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def folder(short_tmp_path: Path) -> Path:
    return short_tmp_path.resolve()


@pytest.fixture(scope="module")
def shared_home() -> Iterator[ExampleHome]:
    """A home with a running daemon, for the pages that take one for granted."""
    # Not pytest's own temporary folder: its path is longer than a Unix socket's may be on macOS (104 bytes).
    with tempfile.TemporaryDirectory(prefix="smt-", dir="/tmp") as folder:
        home = ExampleHome(Path(folder).resolve())
        try:
            home.start()
            yield home
        finally:
            home.leave()


def _runnable(page: Page) -> list[Block]:
    return [block for block in page.blocks if block.language in RUNNABLE and block.not_run is None]


def _type_in(page: Page, home: ExampleHome) -> None:
    for block in _runnable(page):
        try:
            printed = home.run(block)
        except AssertionError as error:
            raise AssertionError(f"{page.path.name}:{block.line}: {error}") from None
        if block.output is not None and not matches(block.output, printed):
            raise AssertionError(
                f"{page.path.name}:{block.line}: the page shows\n{block.output}\n--- but printed was\n{printed}"
            )


@needs_curl
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", WITH_DAEMON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_do_what_it_says(path: Path, shared_home: ExampleHome) -> None:
    _type_in(read_page(path), shared_home)


@needs_curl
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", FROM_NOTHING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_newcomer_who_has_nothing_gets_what_the_page_says(path: Path, folder: Path) -> None:
    home = ExampleHome(folder)
    try:
        _type_in(read_page(path), home)
    finally:
        home.leave()


@needs_curl
@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["docs/quick-start.md", "docs/user-guide.md"])
def test_a_newcomer_with_smollm2_gets_what_the_page_says(name: str, folder: Path, models_dir: Path) -> None:
    home = ExampleHome(folder, models_dir=models_dir)
    try:
        if name != "docs/quick-start.md":
            home.start()
        _type_in(read_page(ROOT / name), home)
    finally:
        home.leave()


def test_output_is_compared_but_for_what_the_page_leaves_open() -> None:
    assert matches("a … c\n…\nend", "a b c\nx\ny\nend\n")
    assert matches("…\nend", "end\n")
    assert not matches("a … c", "a b\nc")
    assert not matches("a", "a\nb")


def test_a_failing_example_is_named_by_page_and_line(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "quick-start.md"
    path.write_text("# T\n\n<!-- not run: no -->\n```bash\nexit 1\n```\n\n```bash\necho 2\nfalse\n```\n")
    with pytest.raises(AssertionError, match=r"quick-start.md:8: echo 2"):
        _type_in(read_page(path), ExampleHome(folder))


def test_a_comment_elsewhere_excuses_no_block() -> None:
    for path in PAGES:
        comments = [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.lstrip().startswith("<!-- not run:")
        ]
        excused = [block for block in read_page(path).blocks if block.not_run]
        assert len(comments) == len(excused), path.name
    assert Block(1, "bash", "x").not_run is None
