#!/usr/bin/env bash
# Learning or sharpening, on CPUs: SD-Zero, controls that can only sharpen, and rivals in the quickstart's world, for several
# seeds, in two worlds each: the base model slips on hard facts with probability 0.4, so that its majority knows
# them, and 0.6, so that its majority is wrong.
#   bash scripts/experiments/quickstart_rivals.sh 0 1 2
# Jobs that are done are not run again. SLIPS="0.4 0.6" OUTPUT=outputs/quickstart_rivals RESULTS=OUTPUT/results
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common.sh"
show_help "$@"
only_seeds "$@"
source "$REPOSITORY/scripts/environment.sh"
make_environment
export VIRTUAL_ENV="$CPU_ENVIRONMENT"
choose_python "$CPU_ENVIRONMENT"
export PYTHONPATH="$REPOSITORY:$PYTHONPATH"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
export PLAN="$REPOSITORY/experiments/one_gpu/quickstart.yaml"
ROOT=${OUTPUT:-$REPOSITORY/outputs/quickstart_rivals}

found=()
for SEED in "$@"; do
  for SLIP_PROBABILITY in ${SLIPS:-0.4 0.6}; do
    export SEED SLIP_PROBABILITY OUTPUT="$ROOT/slip$SLIP_PROBABILITY/seed$SEED"
    printf '\n== slip probability %s, seed %s\n' "$SLIP_PROBABILITY" "$SEED"
    run bash "$REPOSITORY/scripts/experiments/one_gpu.sh"
    run bash "$REPOSITORY/scripts/experiments/one_gpu.sh" --results "$OUTPUT/results"
    found+=("$OUTPUT/results/quickstart.json")
  done
done
run "$PYTHON" -m experiments.one_gpu.seeds "${RESULTS:-$ROOT/results}" "${found[@]}"
