#!/usr/bin/env bash
# Make .venv exactly as requirements.lock says. `make setup` calls this; it asks no questions.
#   PYTHON          the Python 3.11 to use (default: the first of python3.11, python3 that is one)
#   TORCH_PIP_ARGS  pip options for torch alone, to choose its build
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

# --- what the machine must offer -------------------------------------------------------------------
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3}; do
    if is_python311 "$candidate"; then command -v "$candidate" && return; fi
  done
  return 1
}
has_java() { [[ $("${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1) =~ version\ \"(17|21)[.\"] ]]; }
has_compiler() {
  "${CXX:-c++}" -std=c++17 -x c++ -fsyntax-only - <<<'#include <string_view>' 2>/dev/null
}
has_headers() {
  test -f "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
}
missing_packages() { # one Debian package name a line; nothing when all is there
  local python
  has_java || echo openjdk-17-jre-headless
  has_compiler || echo g++
  if python=$(find_python); then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3.11-venv
    has_headers "$python" || echo python3.11-dev
  else
    printf '%s\n' python3.11 python3.11-venv python3.11-dev
  fi
}

packages=$(missing_packages | xargs)
if [[ $packages && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  say "Installing with apt-get: $packages"
  { apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages; } || true
  packages=$(missing_packages | xargs)
fi
if [[ $packages ]]; then
  echo "setup: this machine lacks (by Debian's names): $packages"
  if command -v apt-get >/dev/null; then
    echo "  Install it:   sudo apt-get update && sudo apt-get install -y $packages"
  fi
  echo "  Looked at:    PYTHON=${PYTHON:-python3.11 or python3}" \
    "JAVA_HOME=${JAVA_HOME:-(unset: java on PATH)} CXX=${CXX:-c++}"
  exit 2
fi >&2

# --- the environment -------------------------------------------------------------------------------
python=.venv/bin/python
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
conflicts() { pip check | grep "$@" || true; } # the lines of pip check that grep lets through

is_python311 "$python" || "$(find_python)" -m venv --clear .venv
say "Python environment .venv ($("$python" -V))"

torch=$(grep '^torch==' requirements.lock)
say "$torch ${TORCH_PIP_ARGS-} (200 MB; a CUDA build takes 4 GB with its libraries)"
another_build= # like TORCH_PIP_ARGS unquoted below: no word or several
[[ ${TORCH_PIP_ARGS-} == "$(cat .venv/.ready 2>/dev/null)" ]] || another_build=--force-reinstall
pip install -q --no-deps $another_build ${TORCH_PIP_ARGS-} "$torch"

say "Everything else in requirements.lock (600 MB)"
pip install -q --no-deps -r <(grep -v '^horovod==' requirements.lock)
if [[ $(conflicts '^torch ') ]]; then
  say "The CUDA libraries of this torch"
  pip install -q ${TORCH_PIP_ARGS-} "$torch"
fi

wheel=$(tools/horovod_wheel.sh)
say "Horovod: $wheel"
pip install -q --no-deps --force-reinstall "$wheel" # it must be the one built against this torch
pip install -q --no-deps -r requirements.lock

known='^petastorm .* setuptools<70,' # no code of petastorm that we call imports setuptools
unknown=$(conflicts -v -e "$known" -e '^No broken')
if [[ $unknown ]]; then
  printf 'setup: requirements.lock does not hold together:\n%s\n' "$unknown" >&2
  exit 1
fi

say "Compiled loops of a training step (half a minute, once on a machine)"
"$python" -m tools.compile_loops

printf '%s\n' "${TORCH_PIP_ARGS-}" >.venv/.ready
say "Ready after ${SECONDS} s. Next: make demo"
