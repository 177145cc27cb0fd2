#!/usr/bin/env bash
# Wheels of packages that are published as source, built against this environment's torch and kept:
#   bash build_extensions.sh FOLDER transformer-engine-torch==2.12.0 flash-attn==2.8.1
# A wheel that FOLDER has is not built again. To be run in the environment; it takes its headers (CUDA, cuDNN, NCCL)
# from the packages that torch brings, and nvcc from CUDA_HOME, PATH, /usr/local/cuda or, where none is, a package.
#   MAX_JOBS: compilers at the same time; unset: a core and 4 GB of free memory for each
#   CUDA_ARCHS: what flash-attn is built for ("80;90"); unset: the GPUs that are here, or 90 without one
# transformer-engine-torch is C++ alone (31 files, about a minute and 1 GB each) and asks nvcc for its version only;
# flash-attn has 73 CUDA files of several minutes and up to 4 GB each, for one architecture.
set -euo pipefail

folder=$(realpath -m "$1")
shift
mkdir -p "$folder"

nvidia=$(python -c 'import nvidia; print(list(nvidia.__path__)[0])')
for home in "${CUDA_HOME:-}" "$(dirname "$(dirname "$(command -v nvcc || echo /none/bin/nvcc)")")" /usr/local/cuda "$nvidia/cu13"; do
  [ -x "$home/bin/nvcc" ] && [ -d "$home/include" ] && [ -f "$home/include/cuda_runtime.h" ] && break
done
if [ ! -x "$home/bin/nvcc" ]; then
  echo "environment: no nvcc was found; installing one into $nvidia"
  uv pip install --quiet --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-cccl==13.0.85
  home=$nvidia/cu13
fi

# torch's packages bring libraries under their versioned names only; flash-attn links -lcudart.
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
ln -s "$nvidia"/cu13/lib/libcudart.so.13 "$links/libcudart.so"
includes=$(printf '%s:' "$nvidia"/*/include)
for extra in "$home/include" "$home/include/cccl" "$nvidia/cu13/include/cccl"; do
  [ -d "$extra" ] && includes+="$extra:"
done
export CUDA_HOME=$home CPLUS_INCLUDE_PATH="$includes${CPLUS_INCLUDE_PATH:-}" LIBRARY_PATH="$links:${LIBRARY_PATH:-}"

# Both would fetch a wheel that fits by its name alone: flash-attn's are for CUDA 12.
export NVTE_PYTORCH_FORCE_BUILD=TRUE NVTE_FRAMEWORK=pytorch NVTE_BUILD_USE_NVIDIA_WHEELS=1
export FLASH_ATTENTION_FORCE_BUILD=TRUE NVCC_THREADS=1
free=$(awk '/MemAvailable/ {print int($2 / 4194304)}' /proc/meminfo)
cores=$(nproc)
export MAX_JOBS=${MAX_JOBS:-$((free < 1 ? 1 : free < cores ? free : cores))}
capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u | paste -sd ';') || true
[[ "$capabilities" =~ ^[0-9\;]+$ ]] || capabilities=90
export FLASH_ATTN_CUDA_ARCHS=${CUDA_ARCHS:-$capabilities} NVTE_CUDA_ARCHS=${CUDA_ARCHS:-$capabilities}

for package in "$@"; do
  name=$(echo "${package%%==*}" | tr - _)
  if compgen -G "$folder/$name-${package##*==}-*.whl" >/dev/null; then
    continue
  fi
  echo "environment: building $package with $MAX_JOBS jobs"
  started=$SECONDS
  if ! python -m pip wheel --no-build-isolation --no-deps --wheel-dir "$folder" "$package" >"$folder/$name.log" 2>&1; then
    echo "error: $package could not be built; $folder/$name.log has the compiler's words:" >&2
    grep -E "error:|fatal" "$folder/$name.log" | head -5 >&2 || true
    exit 1
  fi
  echo "environment: built $package in $((SECONDS - started)) s, kept in $folder"
done
