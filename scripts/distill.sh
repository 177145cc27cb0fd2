#!/usr/bin/env bash
# Phase 2: on-policy self-distillation. Knobs: --help.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
choose_python "$REPOSITORY/self-distillation/.venv"
exec "$PYTHON" "$REPOSITORY/self-distillation/run_distillation.py" "$@"
