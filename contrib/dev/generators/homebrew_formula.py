"""Points contrib/homebrew/semanticd.rb at a released sdist: `homebrew_formula.py URL dist/semanticd-X.Y.Z.tar.gz`."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

FORMULA = Path(__file__).resolve().parents[2] / "homebrew" / "semanticd.rb"


def pointed_at(formula: str, *, url: str, digest: str) -> str:
    """Return the formula with another URL and SHA-256."""
    formula = re.sub(r'^  url ".*"$', f'  url "{url}"', formula, count=1, flags=re.MULTILINE)
    return re.sub(r'^  sha256 ".*"$', f'  sha256 "{digest}"', formula, count=1, flags=re.MULTILINE)


if __name__ == "__main__":
    url, sdist = sys.argv[1:]
    digest = hashlib.sha256(Path(sdist).read_bytes()).hexdigest()
    FORMULA.write_text(
        pointed_at(FORMULA.read_text(encoding="utf-8"), url=url, digest=digest), encoding="utf-8"
    )
    print(f"{FORMULA.name}: {url}, sha256 {digest}")
