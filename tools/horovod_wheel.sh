#!/usr/bin/env bash
# Print the path of the Horovod wheel that fits the torch in .venv; the first call builds it.
#
# As published, Horovod asks for C++14, while torch needs 17, and carries a Gloo that CMake 4 rejects
# (requirements.lock pins cmake below 4). Also, workers talk to each other on the address that their
# machine's own name stands for, a loopback one on Debian, and not on the network that was found. It
# has no wheels. So we build one, and keep it outside the checkout, in a folder named after all it
# depends on. HOROVOD_* build options you export win.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" # cmake
export MAKEFLAGS="-j$(nproc)"      # unset, Horovod takes 8 jobs; inherited, it takes our make's T=...
python=$PWD/.venv/bin/python
version=$(sed -n 's/^horovod==//p' requirements.lock)

platform=$("$python" - <<'EOF'
import sys, sysconfig, torch
print(f"torch-{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")
EOF
)
options=$(env | grep -E '^HOROVOD_(WITH|CPU|GPU|CUDA|NCCL)' | sort || true)
cache=${NFM_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/nfm-pipeline}
patches=2 # counts the changes to what build() patches
wheels=$cache/horovod-$version-$patches-$platform${options:+-$(cksum <<<"$options" | cut -d' ' -f1)}

export HOROVOD_WITH_PYTORCH="${HOROVOD_WITH_PYTORCH-1}"
export HOROVOD_WITHOUT_TENSORFLOW="${HOROVOD_WITHOUT_TENSORFLOW-1}"
export HOROVOD_WITHOUT_MXNET="${HOROVOD_WITHOUT_MXNET-1}"
export HOROVOD_WITH_GLOO="${HOROVOD_WITH_GLOO-1}"
export HOROVOD_WITHOUT_MPI="${HOROVOD_WITHOUT_MPI-1}"
export HOROVOD_CPU_OPERATIONS="${HOROVOD_CPU_OPERATIONS-GLOO}"

build() {
  local work=$cache/building # whatever lies there was left by an interrupted build: we hold the lock
  local source=$work/horovod-$version
  rm -rf "$work" && mkdir "$work"
  echo "==> Building Horovod $version: 3 to 5 minutes on 2 cores, once per torch version"
  "$python" -m pip download -q --no-deps --no-binary :all: --no-build-isolation \
    --dest "$work" "horovod==$version"
  tar -xzf "$source.tar.gz" -C "$work"
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' \
    "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
  sed -i '/::InitializeForProcessSet/,/^}/s/iface = gloo_iface_/iface = global_context.gloo_iface_/' \
    "$source/horovod/common/gloo/gloo_context.cc"
  if [[ $options != *HOROVOD_GPU* ]]; then # nobody asked for CUDA: do not try it where torch has it
    sed -i 's/CUDA_HOME is not None/False/' "$source/cmake/Modules/FindPytorch.cmake"
  fi
  "$python" -m pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$work/done" "$source"
  mv "$work/done" "$wheels" # a rename: the folder appears complete or not at all
  rm -rf "$work"
} >&2

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { echo "==> Waiting for another build of Horovod" >&2 && flock 9; }
if [[ ! -d $wheels ]]; then build; fi
echo "$wheels"/horovod-*.whl
