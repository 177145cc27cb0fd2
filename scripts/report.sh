#!/usr/bin/env bash
# Report of a whole run: table, plots and examples in report.html, metrics in summary.json. Knobs: --help. --dry-run only shows the plan.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
exec "$PYTHON" "$REPOSITORY/self-revision-training/report.py" "$@"
