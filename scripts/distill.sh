#!/usr/bin/env bash
# Phase 2: on-policy self-distillation. Knobs: --help. --dry-run only shows the plan. ENGINE=nemo-rl creates its environment on first use.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
PHASE2="$REPOSITORY/self-distillation"
wants_nemo_rl() {
  local engine=${ENGINE:-} argument
  for argument in "$@"; do
    case $argument in engine=* | ENGINE=*) engine=${argument#*=} ;; esac
  done
  case $engine in
    local) return 1 ;;
    nemo-rl) return 0 ;;
    *) [ -d "$PHASE2_ENVIRONMENT" ] ;;
  esac
}
# Without a GPU, the 10 GB of the environment would be useless; the run itself reports that a GPU is missing.
may_have_gpu() { [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null || [ "${NUM_NODES:-1}" != 1 ]; }
# Phase 1's environment, which the README activates, says nothing about Phase 2's.
no_environment_chosen() { [ -z "${VIRTUAL_ENV:-}" ] || [ "$VIRTUAL_ENV" -ef "$PHASE1_ENVIRONMENT" ]; }
case " $* " in *" --help "*|*" -h "*|*" --dry-run "*) ;; *)
  if no_environment_chosen && wants_nemo_rl "$@" && may_have_gpu; then
    # shellcheck disable=SC1091
    source "$PHASE2/setup_env.sh" || echo "note: ENGINE=nemo-rl is missing some of its requirements (see above)" >&2
  fi ;;
esac
choose_python "$PHASE2_ENVIRONMENT" "$PHASE1_ENVIRONMENT"
exec "$PYTHON" "$PHASE2/run_distillation.py" "$@"
