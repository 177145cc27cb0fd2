#!/usr/bin/env bash
# Lint, formatting and types, then every test that needs no GPU, in the small environment, which is created if needed.
# Arguments go to pytest. All four run even when one fails; the last line names those that failed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$REPOSITORY/scripts/environment.sh"
make_environment --with-vllm
cd "$REPOSITORY"
bin="$CPU_ENVIRONMENT/bin"
failed=()

check() { # check NAME COMMAND...
  echo "== $1"
  "${@:2}" || failed+=("$1")
}

check "ruff check" "$bin/ruff" check .
check "ruff format" "$bin/ruff" format --check .
check "basedpyright" "$bin/basedpyright" --pythonpath "$bin/python"
check "pytest" env OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
  "$bin/python" -m pytest -n 2 --dist loadfile "$@"

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED:%s\n' "$(printf ' %s,' "${failed[@]}" | sed 's/,$//')" >&2
  exit 1
fi
echo "ruff check, ruff format, basedpyright and pytest passed"
