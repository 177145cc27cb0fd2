#!/usr/bin/env bash
# Phase 1, training: stage 1 (generation), then stage 2 (revision). Knobs: --help. --dry-run only shows the plan.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
exec "$PYTHON" "$REPOSITORY/self-revision-training/sft.py" "$@"
