#!/usr/bin/env bash
# Resolve constraints.txt anew for every Python and platform at once. Run it after a change to the dependencies.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit 0
fi

if ! command -v uv >/dev/null; then
  echo "constraints: uv is not installed (pipx install uv): pip cannot resolve for several Pythons at once." >&2
  exit 1
fi
resolved="$(mktemp)"
trap 'rm -f "$resolved"' EXIT
uv pip compile pyproject.toml --universal --python-version 3.10 --upgrade \
  --extra bench --extra cpu --extra dev --extra otel --extra docs \
  --no-header --no-annotate --no-emit-index-url --quiet --output-file "$resolved"
{
  echo "# The exact versions that CI runs with, for Python 3.10 to 3.14 on macOS and Linux. \`make setup\` installs with them."
  echo "# Made by \`make constraints\` from pyproject.toml; do not edit by hand."
  cat "$resolved"
} > constraints.txt
