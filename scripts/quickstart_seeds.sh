#!/usr/bin/env bash
# The quickstart for several seeds, one after the other, then a markdown table of all of them:
#   bash scripts/quickstart_seeds.sh 0 1 2 3 4
# Seeds that are complete are not run again.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
show_help "$@"
only_seeds "$@"
OUT=${OUTPUT:-$REPOSITORY/quickstart_output}
summaries=()
for seed in "$@"; do
  summaries+=("$OUT/seed$seed/summary.json")
  if [ ! -f "${summaries[-1]}" ]; then SEED=$seed OUTPUT="$OUT/seed$seed" run bash "$REPOSITORY/scripts/quickstart.sh"; fi
done
choose_python "$CPU_ENVIRONMENT"
PYTHONPATH="$REPOSITORY:$PYTHONPATH" exec "$PYTHON" -m quickstart.seed_table "${summaries[@]}"
