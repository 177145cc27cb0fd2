#!/usr/bin/env bash
# SD-Zero end to end without a GPU, in a toy world of arithmetic problems:
# base model -> D_revision -> SFT stage 1 -> stage 2 -> self-distillation -> evaluation -> report.
#   bash scripts/quickstart.sh               SEED=0, output in quickstart_output/seed0
#   SEED=3 OUTPUT=elsewhere bash scripts/quickstart.sh
# It runs the same entry points as a real run. Called again, it continues where it stopped.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
source "$REPOSITORY/scripts/environment.sh"
show_help "$@"
no_arguments "$@"
make_environment
export VIRTUAL_ENV="$CPU_ENVIRONMENT"
choose_python "$CPU_ENVIRONMENT"

SEED=${SEED:-0}
OUT=${OUTPUT:-$REPOSITORY/quickstart_output/seed$SEED}
export SEED
# Such a small model gains nothing from several threads; several processes use the cores instead.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
# Responses are short in this world, and its prompts need no suffix.
export SAMPLER=transformers SAMPLER_BATCH=256 PROMPT_SUFFIX="" MAX_TOKENS=80 TOP_P=1.0 GRADING_WORKERS=1
export DATA_PREFIX=quickstart TRAIN_DATA_DIR="$OUT/train_data" REPORT_TO=tensorboard
export SD_ZERO_SCRIPTED=1 # the next command is typed here

STARTED=$SECONDS
step() {
  local title=$1 before=$SECONDS
  shift
  printf '\n== %s\n' "$title"
  "$@"
  printf -- '-- %s: %d s\n' "$title" $((SECONDS - before))
}
scripts() { run bash "$REPOSITORY/scripts/$1.sh"; }
evaluate() { # name, checkpoint
  MODEL_PATH=$2 DATASET="$OUT/data/heldout.jsonl" NUM_SAMPLES=8 BATCH_SIZE=128 OUTPUT_DIR="$OUT/evaluation/$1" scripts evaluate
}

# Training keeps one core busy; finished stages are evaluated in the background, each with its own log file.
declare -A BACKGROUND=() # name -> process
trap 'for process in "${BACKGROUND[@]}"; do kill -- "-$process" 2>/dev/null || true; done' EXIT
evaluate_in_background() { # name, checkpoint
  mkdir -p "$OUT/evaluation"
  echo "in the background: evaluation of $1, log in $OUT/evaluation/$1.log"
  set -m # in its own process group, so that the whole group can be killed
  evaluate "$1" "$2" >"$OUT/evaluation/$1.log" 2>&1 &
  BACKGROUND[$1]=$!
  set +m
}
wait_for_evaluations() {
  local name
  for name in "${!BACKGROUND[@]}"; do
    wait "${BACKGROUND[$name]}" || { tail -n 20 "$OUT/evaluation/$name.log" >&2; exit 1; }
    unset "BACKGROUND[$name]"
  done
}

make_world() {
  PYTHONPATH="$REPOSITORY:$PYTHONPATH" run "$PYTHON" -m quickstart.make_world --output-dir "$OUT" --seed "$SEED"
}
collect() {
  # More problems in flight than fit into a batch keep the batch full while others are graded.
  MODEL_PATH="$OUT/base" DATASET="$OUT/data/train.jsonl" BATCH_SIZE=768 OUTPUT_DIR="$OUT/collection" scripts run_srt_data
}
train_srt() {
  evaluate_in_background base "$OUT/base"
  BASE_MODEL="$OUT/base" EPOCHS_STAGE1=4 EPOCHS_STAGE2=1 LR_STAGE1=3e-4 LR_STAGE2=3e-4 LR_SCHEDULE=linear \
    TUPLES_PER_UPDATE=32 BATCH_SIZE_PER_DEVICE=32 GRADIENT_CHECKPOINTING=0 OUTPUT_DIR="$OUT/srt" scripts sft
}
self_distill() {
  evaluate_in_background stage1 "$OUT/srt/stage1"
  evaluate_in_background srt "$OUT/srt/stage2"
  # Phase 1 uses nearly all problems of this small world.
  EXCLUDE_SRT_PROBLEMS=0 ENGINE=local STUDENT_MODEL="$OUT/srt/stage2" TRAIN_DATASET="$OUT/data/train.jsonl" \
    VAL_DATASET="$OUT/data/validation.jsonl" VAL_PERIOD=20 VAL_NUM_SAMPLES=1 MAX_TOTAL_SEQUENCE_LENGTH=128 \
    NUM_PROMPTS_PER_STEP=64 TRAIN_GLOBAL_BATCH_SIZE=64 MAX_NUM_STEPS=80 LR=2e-4 GRADIENT_CHECKPOINTING=0 \
    SAMPLER_BATCH=128 OUTPUT_DIR="$OUT/self_distillation" scripts distill
}
evaluate_sd_zero() {
  evaluate sd_zero "$OUT/self_distillation/student"
  wait_for_evaluations
}
report() {
  COLLECTION="$OUT/collection" SRT="$OUT/srt" DISTILLATION="$OUT/self_distillation" EVALUATION="$OUT/evaluation" \
    OUTPUT_DIR="$OUT" scripts report
}

step "base model" make_world
step "D_revision" collect
step "SFT, two stages" train_srt
step "self-distillation" self_distill
step "evaluation" evaluate_sd_zero
step "report" report
printf '\nquickstart, seed %s: %d s, %s of disk in %s\n' "$SEED" $((SECONDS - STARTED)) "$(du -sh "$OUT" | cut -f1)" "$OUT"
printf 'next: open %s in a browser; bash scripts/run_srt_data.sh --dry-run shows the plan of a real run\n' "$OUT/report.html"
