#!/usr/bin/env bash
# Every test that needs no GPU, in the small environment, which this makes. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$REPOSITORY/scripts/environment.sh"
make_environment --with-vllm
cd "$REPOSITORY"
"$CPU_ENVIRONMENT/bin/ruff" check .
exec env OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
  "$CPU_ENVIRONMENT/bin/python" -m pytest -n 2 --dist loadfile "$@"
