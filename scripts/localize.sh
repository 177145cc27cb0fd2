#!/usr/bin/env bash
# Where the reviser disagrees, token by token: localization.html and localization.json. Knobs: --help. --dry-run only shows the plan.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
choose_python "$PHASE1_ENVIRONMENT" "$PHASE2_ENVIRONMENT"
exec "$PYTHON" "$REPOSITORY/self-distillation/localize.py" "$@"
