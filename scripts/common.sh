# Sourced by every script: finds the repository and a Python environment. Knobs and defaults live in configs/.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CPU_ENVIRONMENT="$REPOSITORY/.venv-cpu"

# An active environment wins, then the phase's own ($1), then the small one.
choose_python() {
  local candidate
  for candidate in "${VIRTUAL_ENV:-}" "$1" "$CPU_ENVIRONMENT"; do
    if [ -n "$candidate" ] && [ -x "$candidate/bin/python" ]; then
      PYTHON="$candidate/bin/python"
      break
    fi
  done
  if [ -z "${PYTHON:-}" ]; then
    echo "error: no Python environment: activate one, or make one as the README says ($1), or run scripts/quickstart.sh" >&2
    exit 2
  fi
  export PYTHONPATH="$REPOSITORY/self-revision-training:$REPOSITORY/self-distillation${PYTHONPATH:+:$PYTHONPATH}"
  export TOKENIZERS_PARALLELISM=false
}
