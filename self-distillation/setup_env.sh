# Phase 2's environment for ENGINE=nemo-rl, made once and checked every time. To be sourced, with bash:
#   cd self-distillation && uv venv && source setup_env.sh
# NEMO_RL_DIR: a checkout of NeMo-RL to use; unset: one is cloned into .venv/nemo-rl. EXTRAS="flash-attn megatron":
# the extras of pyproject.toml; TRAINER_BACKEND=megatron needs the second, which brings Transformer Engine, too, unless
# it cannot be built. What is built from source is kept in WHEELS (unset: .wheels). Needs uv, git, and a package index
# at the first time.

sd_zero_environment() {
  local here commit=81aa43dda repository=https://github.com/NVIDIA-NeMo/RL wanted
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || return
  local venv="$here/.venv" stamp="$here/.venv/.requirements"

  if [ ! -x "$venv/bin/python" ]; then
    command -v uv >/dev/null || { echo "error: uv is not installed; pip install uv" >&2; return 2; }
    (cd "$here" && uv venv) || return
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate" || return

  wanted=$(cat "$here/requirements.txt" "$here/pyproject.toml" <(echo "${EXTRAS:-}") | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    command -v uv >/dev/null || { echo "error: uv is not installed; pip install uv" >&2; return 2; }
    echo "environment: installing into $venv (about 10 GB, once)"
    uv pip install --quiet -r "$here/requirements.txt" || return
    local extra
    for extra in ${EXTRAS:-}; do
      sd_zero_extra "$here" "$extra" || return
      if [ "$extra" = megatron ] && ! sd_zero_extra "$here" transformer-engine; then
        echo "environment: without Transformer Engine, TRAINER_BACKEND=megatron uses MEGATRON_LAYERS=local" >&2
      fi
    done
    echo "$wanted" >"$stamp"
  fi

  if [ -z "${NEMO_RL_DIR:-}" ]; then
    export NEMO_RL_DIR="$venv/nemo-rl"
    if [ ! -d "$NEMO_RL_DIR/nemo_rl" ]; then
      echo "environment: cloning NeMo-RL v0.7.0 into $NEMO_RL_DIR"
      rm -rf "$NEMO_RL_DIR"
      git clone --quiet --filter=blob:none --no-checkout "$repository" "$NEMO_RL_DIR" &&
        git -C "$NEMO_RL_DIR" checkout --quiet "$commit" || return
    fi
  fi

  # CUDA, cuDNN and NCCL are the ones that torch's own packages bring, whatever the system has.
  local nvidia libraries
  nvidia=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
  libraries=$(printf '%s:' "$nvidia"/*/lib)
  export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
  export CUDNN_PATH="$nvidia/cudnn" NCCL_HOME="$nvidia/nccl" CUDA_HOME="${CUDA_HOME:-$nvidia/cu13}"
  export PYTHONPATH="$here/../self-revision-training:$here${PYTHONPATH:+:$PYTHONPATH}"
  python -m opsd.nemo_rl.driver.check_environment "$commit"
}

# Install an extra of pyproject.toml, after building what of it is source: built again only for another torch.
sd_zero_extra() {
  local here=$1 extra=$2 built='' wheels
  case "$extra" in  # packages that are published as source
    transformer-engine) built=transformer-engine-torch ;;
    flash-attn) built=flash-attn ;;
  esac
  [ -z "$built" ] || built=$(grep -o "\"$built==[^\"]*\"" "$here/pyproject.toml" | tr -d '"')
  wheels=${WHEELS:-$here/.wheels}/$(python -c 'import sys, torch; print(f"torch{torch.__version__}-cp3{sys.version_info[1]}")')
  if [ -n "$built" ]; then
    # What building wants to find here.
    uv pip install --quiet pip setuptools wheel ninja packaging psutil -c "$here/requirements.txt" || return
    bash "$here/build_extensions.sh" "$wheels" "$built" || return
  fi
  uv pip install --quiet -r "$here/pyproject.toml" --extra "$extra" -c "$here/requirements.txt" --find-links "$wheels"
}

sd_zero_environment
