from __future__ import annotations

import subprocess
import sys

import pytest

from semanticd.adapters.mlx.platform.transformers_names import from_the_last

SAME_NAMES = """
import sys
from pathlib import Path
from semanticd.adapters.mlx.platform.transformers_names import quick_names
with quick_names():
    import transformers
from transformers.utils import import_utils
folder = Path(transformers.__file__).parent / "models"
define = import_utils.define_import_structure.__wrapped__
quick = define(folder, prefix="models")
import_utils.fetch__all__ = import_utils.fetch__all__.__wrapped__
import_utils.create_import_structure_from_path.cache_clear()
as_it_is = define(folder, prefix="models")
print(quick == as_it_is, len(quick) > 3, any("names" in repr(finder) for finder in sys.meta_path))
"""


def said_by(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=115
    )
    return done.stdout


def test_the_library_offers_the_same_names() -> None:
    assert said_by(SAME_NAMES) == "True True False\n"


def test_the_sources_are_read_once() -> None:
    # The packages that are imported look at their own files again.
    script = """
import builtins
from collections import Counter
from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm
opened, original = Counter(), builtins.open
def noted(file, *args, **more):
    opened[str(file)] += "transformers/models/" in str(file)
    return original(file, *args, **more)
builtins.open = noted
import_mlx_lm()
print(opened.total() > 1000, sum(opened[file] for file in opened if opened[file] > 1) < 100)
"""
    assert said_by(script) == "True True\n"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 1\n",
        '__all__ = ["a"]\n',
        'x = 1\n__all__ = ["a"]\n__all__ = ["b", "c"]\ny = 2\n',
        'x = """\n__all__ = 1\n"""\n__all__ = [\n    "a",\n    "b",\n]\n',
        'x = "__all__"\n    __all__ = ["a"]\n',
        '__all__ = ["a"]\n\x0c__all__ = ["b"]\n',
    ],
)
def test_the_end_of_a_source_is_enough(source: str) -> None:
    from transformers.utils.import_utils import fetch__all__

    original = getattr(fetch__all__, "__wrapped__", fetch__all__)
    assert from_the_last(original)(source) == original(source)
