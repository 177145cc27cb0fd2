#!/usr/bin/env bash
# Phase 1, data: collect D_revision, then split it into the two SFT stages. Knobs: --help. --dry-run only shows the plan.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
collect() { "$PYTHON" "$REPOSITORY/self-revision-training/self_critique_pipeline.py" "$@"; }
case " $* " in *" --help "*|*" -h "*|*" --dry-run "*) collect "$@"; exit ;; esac
collect "$@"
"$PYTHON" "$REPOSITORY/self-revision-training/prepare_data.py" "$@"
