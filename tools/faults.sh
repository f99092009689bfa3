#!/usr/bin/env bash
# Run the fault-injection suite. `make faults` calls this; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two machines are played by network namespaces, one with an ssh server.
missing_packages() { # by Debian's names
  [[ -x /usr/sbin/sshd ]] || echo openssh-server
  command -v ip >/dev/null || echo iproute2
}
packages=$(missing_packages | xargs)
if [[ $packages && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "==> Installing with apt-get: $packages"
  { apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages; } || true
  packages=$(missing_packages | xargs)
fi
if [[ $packages ]]; then
  echo "faults: without $packages no training across machines; what is tested of it is skipped"
  echo "  Install it:   sudo apt-get update && sudo apt-get install -y $packages"
elif [[ $(id -u) != 0 ]]; then
  echo "faults: only root may make network namespaces and small disks; what needs them is skipped"
fi >&2
exec .venv/bin/python -m pytest -q --durations=10 "${@:-tests/faults}"
