#!/usr/bin/env bash
# Make .venv-peers exactly as requirements-peers.lock says. `make bench-train` and `make reproduce` call it.
#   TORCH_PIP_ARGS  pip options for torch alone, to choose its build
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-peers
lock=requirements-peers.lock
cmp -s $lock $venv/.ready && exit # a copy of the lock, written last

printf '==> The peers: %s (2 GB, 2 minutes)\n' $venv
.venv/bin/python -m venv --clear $venv
pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }
torch=$(grep '^torch==' $lock)
pip install -q --no-deps ${TORCH_PIP_ARGS-} "$torch"
pins=$(grep -v -e '^torch==' -e '^#' -e '^$' $lock)
if ! pip install -q --no-deps $pins; then
  # The benchmark reports a peer that is not there, with the reason; it must not stop the others.
  for pin in $pins; do
    pip install -q --no-deps "$pin" || echo "peers: $pin does not install"
  done
fi
$venv/bin/python -c 'import torch' 2>/dev/null || # a CUDA build needs its libraries
  pip install -q ${TORCH_PIP_ARGS-} "$torch"
cp $lock $venv/.ready
