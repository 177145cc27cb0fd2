#!/usr/bin/env bash
# Evaluate and compare checkpoints (evaluate.sh MODEL [MODEL ...]): avg@k, pass@k, majority@k, greedy, entropy,
# length, accuracy of revisions. Knobs: --help. --dry-run only shows the plan.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
exec "$PYTHON" "$REPOSITORY/self-revision-training/evaluate.py" "$@"
