#!/usr/bin/env bash
# Phase 2: on-policy self-distillation. Knobs: --help. ENGINE=nemo-rl makes its environment by itself, once.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
PHASE2="$REPOSITORY/self-distillation"
wants_nemo_rl() {
  case " ENGINE=${ENGINE:-} $* " in *[Ee][Nn][Gg][Ii][Nn][Ee]=local*) return 1 ;; esac
  case " ENGINE=${ENGINE:-} $* " in *[Ee][Nn][Gg][Ii][Nn][Ee]=nemo-rl*) return 0 ;; esac
  [ -d "$PHASE2/.venv" ]
}
case " $* " in *" --help "*|*" -h "*) ;; *)
  if [ -z "${VIRTUAL_ENV:-}" ] && wants_nemo_rl "$@"; then
    # shellcheck disable=SC1091
    source "$PHASE2/setup_env.sh" || echo "note: not everything that ENGINE=nemo-rl needs is there (above)" >&2
  fi ;;
esac
choose_python "$PHASE2/.venv"
exec "$PYTHON" "$PHASE2/run_distillation.py" "$@"
