"""Defaults that follow from the mode and the model: datasets, and the paths of all outputs."""

from pathlib import Path

from srt.contract.provenance import CHECKPOINT_METADATA, read_metadata

REPOSITORY = Path(__file__).resolve().parents[3]
PHASE1 = REPOSITORY / "self-revision-training"
PHASE2 = REPOSITORY / "self-distillation"
CHECKPOINTS = PHASE1 / "ckpts"

DEFAULT_DATASETS = {
    "math": ("open-r1/OpenR1-Math-220k", None),
    "code": ("open-r1/codeforces-cots", "solutions"),
}


# Dataset and split that Phase 2 validates on and evaluation measures.
DEFAULT_EVALUATION = {
    "math": ("HuggingFaceH4/aime_2024", "train"),
    "code": ("openai/openai_humaneval", "test"),
}
DEFAULT_SPLIT = "train"  # of a dataset that is set by a knob


def dataset_or_default(mode: str, dataset: str | None, subset: str | None) -> tuple[str, str | None]:
    """`dataset` and `subset`, or the mode's defaults if they are not set."""
    default, default_subset = DEFAULT_DATASETS[mode]
    return dataset or default, subset if dataset or subset else default_subset


def evaluation_or_default(mode: str, dataset: str | None, split: str | None) -> tuple[str, str]:
    """`dataset` and `split`, or what the mode is validated and evaluated on if they are not set."""
    default, default_split = DEFAULT_EVALUATION[mode]
    return dataset or default, split or (DEFAULT_SPLIT if dataset else default_split)


def model_name(model_path: str) -> str:
    """Qwen/Qwen3-4B-Instruct-2507 -> Qwen3-4B-Instruct-2507."""
    return Path(model_path.rstrip("/")).name


def data_prefix(knob: str | None, mode: str, model_path: str) -> str:
    return knob or f"{'code' if mode == 'code' else 'r1'}_{model_name(model_path)}_srt"


def collection_dir(knob: str | None, prefix: str) -> Path:
    return Path(knob) if knob else PHASE1 / "outputs" / prefix


def stage_file(train_data_dir: str | None, prefix: str, stage: int) -> Path:
    folder = Path(train_data_dir) if train_data_dir else PHASE1 / "train_data"
    return folder / f"{prefix}_stage{stage}.json"


def problems_file(train_data_dir: str | None, prefix: str) -> Path:
    """The problems that the stage files were made of (srt/collect/consumed.py), beside them."""
    return stage_file(train_data_dir, prefix, 1).with_name(f"{prefix}_problems.jsonl")


def sft_dir(knob: str | None, base_model: str, prefix: str) -> Path:
    return Path(knob) if knob else CHECKPOINTS / model_name(base_model) / prefix


def newest_stage2() -> Path | None:
    """The most recently finished stage-2 checkpoint under ckpts/."""
    finished = [path.parent for path in CHECKPOINTS.glob(f"*/*/stage2/{CHECKPOINT_METADATA}")]
    return max(finished, key=lambda path: (path / CHECKPOINT_METADATA).stat().st_mtime, default=None)


def distillation_dir(knob: str | None, student_model: str) -> Path:
    if knob:
        return Path(knob)
    metadata = read_metadata(student_model) or {}
    return PHASE2 / "results" / f"sd_zero_{model_name(metadata.get('base_model', student_model))}"
