#!/usr/bin/env bash
# Phase 1, data: collect D_revision, then split it into the two SFT stages. Knobs: --help.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
choose_python "$REPOSITORY/.venv"
case " $* " in *" --help "*|*" -h "*) exec "$PYTHON" "$REPOSITORY/self-revision-training/self_critique_pipeline.py" --help ;; esac
"$PYTHON" "$REPOSITORY/self-revision-training/self_critique_pipeline.py" "$@"
"$PYTHON" "$REPOSITORY/self-revision-training/prepare_data.py" "$@"
