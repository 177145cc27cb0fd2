# Sourced by every script: locates the repository and a Python environment. Knobs and defaults are in configs/.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CPU_ENVIRONMENT="$REPOSITORY/.venv-cpu"

# Prefers an active environment, then the one of the phase ($1), then the small one.
choose_python() {
  local candidate
  for candidate in "${VIRTUAL_ENV:-}" "$1" "$CPU_ENVIRONMENT"; do
    if [ -n "$candidate" ] && [ -x "$candidate/bin/python" ]; then
      PYTHON="$candidate/bin/python"
      break
    fi
  done
  if [ -z "${PYTHON:-}" ]; then
    echo "error: no Python environment: activate one, create $1 as described in the README, or run scripts/quickstart.sh" >&2
    exit 2
  fi
  export PYTHONPATH="$REPOSITORY/self-revision-training:$REPOSITORY/self-distillation${PYTHONPATH:+:$PYTHONPATH}"
  export TOKENIZERS_PARALLELISM=false
}
