#!/usr/bin/env bash
# Make or complete the virtual environment: setup.sh VENV EXTRAS. `make setup` calls it when something changed.
#
# An environment that exists and is new enough is kept: pip then installs what is missing and nothing else.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit 0
fi

venv="$1"
extras="$2"
wanted="${PYTHON:-}"

say() { printf '%s\n' "$*" >&2; }

is_new_enough() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [[ -n "$wanted" ]]; then
    is_new_enough "$wanted" && { printf '%s\n' "$wanted"; return; }
    say "setup: PYTHON=$wanted does not start or is not Python 3.10 to 3.14."
    say "       Give another one: make setup PYTHON=/path/to/python3.12"
    return 1
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "setup: found no Python from 3.10 to 3.14 on PATH ($(python3 --version 2>/dev/null || echo 'no python3 at all'))."
  case "$(uname -s)" in
    Darwin) say "       Install one, for example: brew install python@3.12" ;;
    *) say "       Install one, for example: sudo apt install python3 python3-venv" ;;
  esac
  say "       or name one that is elsewhere: make setup PYTHON=/path/to/python3.12"
  return 1
}

if [[ -x "$venv/bin/python" ]] && is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  if [[ -n "$wanted" ]]; then
    say "setup: keeping $venv ($("$venv/bin/python" --version)); run 'make clean' first to make it from PYTHON=$wanted"
  fi
else
  python="$(find_python)"
  say "setup: making $venv from $("$python" --version) ($(command -v "$python"))"
  if ! "$python" -m venv --clear "$venv" 2>"${TMPDIR:-/tmp}/semanticd-venv.$$"; then
    cat "${TMPDIR:-/tmp}/semanticd-venv.$$" >&2
    rm -f "${TMPDIR:-/tmp}/semanticd-venv.$$"
    rm -rf "$venv"
    say "setup: $python could not make a virtual environment in $venv."
    say "       If it says that ensurepip is missing: sudo apt install python3-venv (Debian, Ubuntu),"
    say "       or name another interpreter: make setup PYTHON=/path/to/python3.12"
    exit 1
  fi
  rm -f "${TMPDIR:-/tmp}/semanticd-venv.$$"
fi

say "setup: installing semanticd[$extras] with the versions in constraints.txt (a minute or two when nothing is cached)"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 \
  --constraint constraints.txt --editable ".[$extras]"; then
  say "setup: pip could not install the dependencies; its last lines above say which and why."
  say "       Without a network, point pip at a folder of wheels (PIP_FIND_LINKS=… PIP_NO_INDEX=1) and run it again."
  exit 1
fi
say "setup: done"
