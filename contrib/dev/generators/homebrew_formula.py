"""Points contrib/homebrew/semanticd.rb at a released sdist.

Usage: `python contrib/dev/generators/homebrew_formula.py URL dist/semanticd-X.Y.Z.tar.gz`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

FORMULA = Path(__file__).resolve().parents[2] / "homebrew" / "semanticd.rb"


def pointed_at(formula: str, *, url: str, digest: str) -> str:
    """Return the formula with another URL and SHA-256."""
    formula = re.sub(r'^  url ".*"$', f'  url "{url}"', formula, count=1, flags=re.MULTILINE)
    return re.sub(r'^  sha256 ".*"$', f'  sha256 "{digest}"', formula, count=1, flags=re.MULTILINE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="where the sdist can be fetched")
    parser.add_argument("sdist", type=Path, help="the same file here")
    options = parser.parse_args()
    digest = hashlib.sha256(options.sdist.read_bytes()).hexdigest()
    FORMULA.write_text(
        pointed_at(FORMULA.read_text(encoding="utf-8"), url=options.url, digest=digest), encoding="utf-8"
    )
    print(f"{FORMULA.name}: {options.url}, sha256 {digest}")
