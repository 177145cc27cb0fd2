#!/usr/bin/env bash
# The tests of ENGINE=nemo-rl on CPUs, with NeMo-RL, Ray, Megatron-Core and Megatron-Bridge themselves, in .venv-nemo-cpu,
# which is created if needed (Python 3.12, 6 GB). Arguments go to pytest.
#   NEMO_RL_DIR: a checkout of NeMo-RL at the commit of self-distillation/setup_env.sh; unset: it is cloned (git, network)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
show_help "$@"
source "$REPOSITORY/scripts/environment.sh"
cd "$REPOSITORY"
environment="$REPOSITORY/.venv-nemo-cpu"
requirements="$REPOSITORY/requirements/nemo-cpu.in" pins="$REPOSITORY/self-distillation/requirements.txt"
expected=$(cat "$requirements" "$pins" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.requirements" 2>/dev/null)" != "$expected" ]; then
  SUPPORTED=3.12
  python=$(find_python "import ensurepip, venv") || { echo "error: no Python 3.12 with venv and pip was found; install it" >&2; exit 2; }
  rm -rf "$environment"
  "$python" -m venv "$environment"
  echo "environment: installing into $environment (takes a few minutes, only once)"
  "$environment/bin/python" -m pip install --quiet -r "$requirements" -c "$pins"
  mapfile -t packages < <(sed -n 's/^# package: //p' "$requirements")
  "$environment/bin/python" -m pip install --quiet --no-deps "${packages[@]}"
  echo "$expected" >"$environment/.requirements"
fi

if [ -z "${NEMO_RL_DIR:-}" ]; then
  export NEMO_RL_DIR="$environment/nemo-rl"
  if [ ! -d "$NEMO_RL_DIR/nemo_rl" ]; then
    setup="$REPOSITORY/self-distillation/setup_env.sh"
    commit=$(sed -n 's/.* commit=\([0-9a-f]*\) .*/\1/p' "$setup") repository=$(sed -n 's/.* repository=\(\S*\).*/\1/p' "$setup")
    echo "environment: cloning NeMo-RL at $commit into $NEMO_RL_DIR"
    rm -rf "$NEMO_RL_DIR"
    git clone --quiet --filter=blob:none --no-checkout "$repository" "$NEMO_RL_DIR"
    git -C "$NEMO_RL_DIR" checkout --quiet "$commit"
  fi
fi

export PYTHONPATH="$REPOSITORY/self-revision-training:$REPOSITORY/self-distillation"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
case " $* " in *" tests/"*) ;; *) set -- "$@" tests/opsd/nemo_rl ;; esac # options alone are for all of them
# -rs: a test that is skipped here for want of something is a fault of requirements/nemo-cpu.in.
exec "$environment/bin/python" -m pytest -rs -n 2 --dist loadfile "$@"
