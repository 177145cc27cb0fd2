#!/usr/bin/env bash
# The method, its ablations and its rivals on a small model and word problems. How to run it: --help.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common.sh"
choose_python "$PHASE2_ENVIRONMENT" "$PHASE1_ENVIRONMENT"
export PYTHONPATH="$REPOSITORY:$PYTHONPATH"
exec "$PYTHON" -m experiments.one_gpu.run "$@"
