"""What a script says about its knobs before it starts: those that are set, and those that it does not read."""

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

SCRIPTS = {"srt_data": "run_srt_data.sh"}  # where the script is not called as its config
SHOWN_CHARACTERS = 80

# Knobs of other scripts -> what the script calls the same thing.
SIBLINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "srt_data": {
        **dict.fromkeys(("BASE_MODEL", "STUDENT_MODEL"), ("MODEL_PATH",)),
        "TRAIN_DATASET": ("DATASET",),
        "NUM_SAMPLES": ("NUM_RESPONSES",),
        **dict.fromkeys(("MAX_LENGTH", "MAX_TOTAL_SEQUENCE_LENGTH"), ("MAX_TOKENS",)),
    },
    "sft": {
        "LR": ("LR_STAGE1", "LR_STAGE2"),
        "STUDENT_MODEL": ("BASE_MODEL",),
        **dict.fromkeys(("DATASET", "TRAIN_DATASET"), ("TRAIN_DATA_DIR", "DATA_PREFIX")),
        **dict.fromkeys(("TRAIN_GLOBAL_BATCH_SIZE", "NUM_PROMPTS_PER_STEP"), ("TUPLES_PER_UPDATE",)),
        "MAX_TOTAL_SEQUENCE_LENGTH": ("MAX_LENGTH",),
        "MAX_NUM_EPOCHS": ("EPOCHS_STAGE1", "EPOCHS_STAGE2"),
        "WARMUP_STEPS": ("WARMUP_RATIO",),
        "SAVE_PERIOD": ("SAVE_STEPS",),
        "VAL_PERIOD": ("VAL_STEPS",),
    },
    "distill": {
        **dict.fromkeys(("MODEL_PATH", "BASE_MODEL"), ("STUDENT_MODEL",)),
        "DATASET": ("TRAIN_DATASET",),
        "DATASET_SPLIT": ("TRAIN_SPLIT",),
        "DATASET_SUBSET": ("TRAIN_SUBSET",),
        **dict.fromkeys(("LR_STAGE1", "LR_STAGE2"), ("LR",)),
        **dict.fromkeys(("EPOCHS_STAGE1", "EPOCHS_STAGE2"), ("MAX_NUM_EPOCHS",)),
        **dict.fromkeys(("BATCH_SIZE", "TUPLES_PER_UPDATE"), ("NUM_PROMPTS_PER_STEP",)),
        **dict.fromkeys(("MAX_TOKENS", "MAX_LENGTH"), ("MAX_TOTAL_SEQUENCE_LENGTH",)),
        "NUM_SAMPLES": ("VAL_NUM_SAMPLES",),
        "WARMUP_RATIO": ("WARMUP_STEPS",),
        "SAVE_STEPS": ("SAVE_PERIOD",),
        "VAL_STEPS": ("VAL_PERIOD",),
    },
    "evaluate": {
        **dict.fromkeys(("BASE_MODEL", "STUDENT_MODEL"), ("MODEL_PATH",)),
        "TRAIN_DATASET": ("DATASET",),
        **dict.fromkeys(("NUM_RESPONSES", "VAL_NUM_SAMPLES"), ("NUM_SAMPLES",)),
        "VAL_MAX_TOKENS": ("MAX_TOKENS",),
    },
}
# Names from elsewhere -> knobs; a script means those of them that it has.
ALIASES: dict[str, tuple[str, ...]] = {
    "LEARNING_RATE": ("LR", "LR_STAGE1", "LR_STAGE2"),
    "STUDENT": ("STUDENT_MODEL",),
    "TEACHER": ("TEACHER_MODEL",),
    **dict.fromkeys(("MODEL", "MODEL_NAME"), ("MODEL_PATH", "BASE_MODEL", "STUDENT_MODEL")),
    **dict.fromkeys(("MAX_STEPS", "NUM_STEPS"), ("MAX_NUM_STEPS",)),
    **dict.fromkeys(
        ("EPOCHS", "NUM_EPOCHS", "NUM_TRAIN_EPOCHS"), ("MAX_NUM_EPOCHS", "EPOCHS_STAGE1", "EPOCHS_STAGE2")
    ),
    "PER_DEVICE_TRAIN_BATCH_SIZE": ("BATCH_SIZE_PER_DEVICE",),
    "GRADIENT_ACCUMULATION_STEPS": ("GRADIENT_ACCUMULATION",),
    **dict.fromkeys(("MAX_SEQ_LENGTH", "MAX_SEQ_LEN"), ("MAX_LENGTH", "MAX_TOTAL_SEQUENCE_LENGTH")),
    "MAX_NEW_TOKENS": ("MAX_TOKENS", "MAX_TOTAL_SEQUENCE_LENGTH"),
    **dict.fromkeys(("OUT_DIR", "OUTPUT_PATH", "OUTPUT_FOLDER"), ("OUTPUT_DIR",)),
    **dict.fromkeys(("DATA", "DATA_PATH", "DATASET_NAME", "DATASET_PATH"), ("DATASET", "TRAIN_DATASET")),
    "LORA_R": ("LORA_RANK",),
    **dict.fromkeys(("NUM_GPUS", "NGPUS"), ("NUM_PROCESSES", "DATA_PARALLEL_SIZE", "GPUS_PER_NODE")),
    **dict.fromkeys(("NUM_GENERATIONS", "N_SAMPLES"), ("NUM_SAMPLES", "NUM_RESPONSES")),
    "RANDOM_SEED": ("SEED",),
    "WARMUP": ("WARMUP_RATIO", "WARMUP_STEPS"),
    "DRY_RUN": ("the argument --dry-run",),
}


def script_of(config_name: str) -> str:
    return SCRIPTS.get(config_name, f"{config_name}.sh")


def right_names(config_name: str, variable: str, known: Iterable[str]) -> tuple[str, ...]:
    """What the script calls the thing that `variable` names elsewhere; empty if nothing is known of it."""
    own = set(known)
    sibling = SIBLINGS.get(config_name, {}).get(variable)
    names = sibling or tuple(name for name in ALIASES.get(variable, ()) if name in own or " " in name)
    return tuple(name for name in names if name in own or " " in name)


def set_knobs_line(values: Mapping[str, Any], origins: Mapping[str, str]) -> str | None:
    """knobs: LR=0.001, SEED=3 (environment); TOP_P=1.0 (command line). None without any."""
    groups: dict[str, list[str]] = {}
    for name, origin in origins.items():
        groups.setdefault(origin, []).append(f"{name}={shown_value(values[name])}")
    parts = [f"{', '.join(settings)} ({origin})" for origin, settings in groups.items()]
    return f"knobs: {'; '.join(parts)}" if parts else None


def ignored_lines(config_name: str, known: set[str], known_anywhere: set[str]) -> list[str]:
    """A line for each variable of the environment that looks like a knob of this script and is none.

    `known`: the variables that the script reads; `known_anywhere`: those of all scripts.
    """
    script, lines, others = script_of(config_name), [], []
    for variable, value in os.environ.items():
        if variable in known:
            continue
        right = right_names(config_name, variable, known)
        if right and not all(name in os.environ for name in right):
            lines.append(
                f"warning: {variable}={shown_value(value)} is ignored, since {script} has no such knob; "
                f"did you mean {' and '.join(right)}?"
            )
        elif variable in known_anywhere:
            others.append(variable)
        elif not right and len(variable) > 5:
            if near := difflib.get_close_matches(variable, sorted(known), n=1, cutoff=0.9):
                lines.append(
                    f"warning: the environment variable {variable} is not a knob; did you mean {near[0]}?"
                )
    if others:
        lines.append(f"note: {script} does not read these knobs of other scripts: {', '.join(sorted(others))}")
    return lines


def shown_value(value: Any) -> str:
    """As it can be typed: null, 0 and 1, quoted where a shell needs it."""
    if value is None:
        return "null"
    text = str(int(value) if isinstance(value, bool) else value)
    text = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
    return text if re.fullmatch(r"[\w./:+@%,-]+", text) else shlex.quote(text)
