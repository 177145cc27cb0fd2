#!/usr/bin/env bash
# Table, curves and examples of a whole run as report.html and summary.json. Knobs: --help.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
choose_python "$REPOSITORY/.venv"
exec "$PYTHON" "$REPOSITORY/self-revision-training/report.py" "$@"
