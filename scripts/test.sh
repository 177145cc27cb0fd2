#!/usr/bin/env bash
# Lint, formatting and types, then every test that needs no GPU, in the small environment, which is created if needed.
# Arguments go to pytest. All four run even when one fails; the last lines name those that failed, and what was not tested.
# WITH_NEMO_RL=1: then also the tests of ENGINE=nemo-rl (test_nemo_rl.sh), which need 6 GB of packages and, unless NEMO_RL_DIR
# names a checkout, the network.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
show_help "$@"
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

# Whether bubblewrap can isolate a program: the tests of the judge are skipped where it cannot.
judge_tested() {
  command -v bwrap >/dev/null && bwrap --ro-bind / / --dev /dev --proc /proc --unshare-all true 2>/dev/null
}
not_tested() {
  if ! command -v chromium chromium-browser google-chrome chrome >/dev/null; then
    echo "NOT TESTED: the report's pages in a browser (curves, hover, zoom, live); apt-get install chromium" >&2
  fi
  if ! "$bin/python" -c "import reasoning_gym" 2>/dev/null; then
    echo "NOT TESTED: the problems of the one-GPU experiment (their generators are missing); $bin/python -m pip install --no-deps -r experiments/requirements.txt" >&2
  fi
  if [ "${WITH_NEMO_RL:-0}" != 1 ]; then
    echo "NOT TESTED: ENGINE=nemo-rl (its engine, workers, sampler and verifier never ran); WITH_NEMO_RL=1 bash scripts/test.sh runs them" >&2
  fi
  if ! command -v bwrap >/dev/null; then
    echo "NOT TESTED: THE CODE JUDGE (all its tests in the sandbox were skipped): bubblewrap is missing; apt-get install bubblewrap (Fedora: dnf install bubblewrap), then bash scripts/test.sh" >&2
  elif ! judge_tested; then
    echo "NOT TESTED: THE CODE JUDGE (all its tests in the sandbox were skipped): bubblewrap cannot create namespaces here; as root: sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0, or a container started with --privileged" >&2
  fi
}

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED:%s\n' "$(printf ' %s,' "${failed[@]}" | sed 's/,$//')" >&2
  not_tested
  exit 1
fi
echo "$passed"
not_tested
