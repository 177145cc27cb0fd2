#!/usr/bin/env bash
# The paper's configuration on 1, 2, 4 and 8 GPUs: throughput, memory, kills, two nodes. How to run it: --help.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common.sh"
choose_python "$PHASE2_ENVIRONMENT" "$PHASE1_ENVIRONMENT"
export PYTHONPATH="$REPOSITORY:$PYTHONPATH"
exec "$PYTHON" -m experiments.eight_gpus.run "$@"
