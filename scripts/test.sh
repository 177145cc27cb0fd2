#!/usr/bin/env bash
# Lint, formatting and types, then every test that needs no GPU, in the small environment, which is created if needed.
# Arguments go to pytest. All four run even when one fails; the last lines name those that failed, and what was not tested.
# WITH_NEMO_RL=1: then also the tests of ENGINE=nemo-rl (test_nemo_rl.sh), which need 6 GB of packages and, unless NEMO_RL_DIR
# names a checkout, the network.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
source "$REPOSITORY/scripts/environment.sh"
make_environment --with-vllm
cd "$REPOSITORY"
bin="$CPU_ENVIRONMENT/bin"
failed=()

check() { # check NAME COMMAND...
  echo "== $1"
  run "${@:2}" || failed+=("$1")
}

check "ruff check" "$bin/ruff" check .
check "ruff format" "$bin/ruff" format --check .
check "basedpyright" "$bin/basedpyright" --pythonpath "$bin/python"
check "pytest" env OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
  "$bin/python" -m pytest -n 2 --dist loadfile "$@"
if [ "${WITH_NEMO_RL:-0}" = 1 ]; then
  check "NeMo-RL" bash scripts/test_nemo_rl.sh
  passed="ruff check, ruff format, basedpyright, pytest and the tests with NeMo-RL passed"
else
  passed="ruff check, ruff format, basedpyright and pytest passed"
fi

not_tested() {
  if [ "${WITH_NEMO_RL:-0}" != 1 ]; then
    echo "NOT TESTED: ENGINE=nemo-rl (its engine, workers, sampler and verifier never ran); WITH_NEMO_RL=1 bash scripts/test.sh runs them" >&2
  fi
}

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED:%s\n' "$(printf ' %s,' "${failed[@]}" | sed 's/,$//')" >&2
  not_tested
  exit 1
fi
echo "$passed"
not_tested
