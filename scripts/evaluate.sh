#!/usr/bin/env bash
# Evaluate a checkpoint: avg@k, pass@k, length, accuracy when asked to revise. Knobs: --help.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
choose_python "$REPOSITORY/.venv"
exec "$PYTHON" "$REPOSITORY/self-revision-training/evaluate.py" "$@"
