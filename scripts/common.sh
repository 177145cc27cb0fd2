# Sourced by every script: the repository, its Python environments, help and arguments. Knobs and defaults are in configs/.
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CPU_ENVIRONMENT="$REPOSITORY/.venv-cpu"
PHASE1_ENVIRONMENT="$REPOSITORY/.venv"
PHASE2_ENVIRONMENT="$REPOSITORY/self-distillation/.venv"

# choose_python OWN [OTHER]: the active environment, then the one of this phase, then the small one. An active environment
# of the other phase does not count where this phase has its own: it may lack what only this phase needs.
choose_python() {
  local own=$1 other=${2:-} active=${VIRTUAL_ENV:-} candidate
  if [ -n "$active" ] && [ "$active" -ef "$other" ] && [ -x "$own/bin/python" ]; then
    echo "note: running in $own; the active environment is that of the other phase" >&2
    active=
  fi
  for candidate in "$active" "$own" "$CPU_ENVIRONMENT"; do
    if [ -n "$candidate" ] && [ -x "$candidate/bin/python" ]; then
      PYTHON="$candidate/bin/python"
      break
    fi
  done
  if [ -z "${PYTHON:-}" ]; then
    echo "error: no Python environment: activate one, create $own as described in the README, or run scripts/quickstart.sh" >&2
    exit 2
  fi
  export PYTHONPATH="$REPOSITORY/self-revision-training:$REPOSITORY/self-distillation${PYTHONPATH:+:$PYTHONPATH}"
  export TOKENIZERS_PARALLELISM=false
}

# show_help ARGUMENT...: with -h or --help among them, prints the comment at the top of the script and ends it.
show_help() {
  case " $* " in *" --help "* | *" -h "*) sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
}
refuse() { # sentence
  echo "error: $1; --help shows how to run this script" >&2
  exit 2
}
no_arguments() { # ARGUMENT...: refuses the first
  if [ $# -gt 0 ]; then refuse "unknown argument '$1'"; fi
}
only_seeds() { # ARGUMENT...: refuses the first that is not a whole number
  if [ $# -eq 0 ]; then refuse "no seed is given"; fi
  local seed
  for seed in "$@"; do
    case $seed in *[!0-9]* | "") refuse "unknown argument '$seed', expected a seed (a whole number)" ;; esac
  done
}

# run COMMAND...: as in the foreground, except that a signal to this script reaches the command too, and that this script
# ends only after it. Without that, `kill` would end the script alone, and what it started would go on.
run() {
  local status=0 child
  set -m # a process group for the command and all that it starts
  "$@" &
  child=$!
  set +m
  # shellcheck disable=SC2064 # the process of now
  for signal in INT TERM HUP; do trap "forward $signal $child" "$signal"; done
  wait "$child" || status=$?
  trap - INT TERM HUP
  return "$status"
}
forward() { # signal, process
  trap '' INT TERM HUP
  kill "-$1" -- "-$2" 2>/dev/null || true
  wait "$2" 2>/dev/null || true
  exit $((128 + $(kill -l "$1")))
}
