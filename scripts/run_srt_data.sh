#!/usr/bin/env bash
# Phase 1, data: collect D_revision, then split it into the two SFT stages. Knobs: --help. --dry-run only shows the plan.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
exec "$PYTHON" "$REPOSITORY/self-revision-training/run_srt_data.py" "$@"
