"""D_revision -> the two SFT stages (arXiv:2604.12002, section 2.1)."""

import random
import shutil
from pathlib import Path
from typing import Any

from srt.collect.config import CollectConfig
from srt.collect.consumed import SRT_PROBLEMS
from srt.common.console import print_next, print_summary
from srt.common.errors import UserError
from srt.common.files import atomic_write, read_json, remove, write_json
from srt.config import load_config
from srt.contract.paths import collection_dir, data_prefix, problems_file, stage_file
from srt.contract.phrases import PhraseSet
from srt.contract.provenance import RUN, fingerprint, read_run

D_REVISION = "d_revision.json"
FINGERPRINT = "d_revision_fingerprint"  # in the results of run.json


def stage_sizes(available: int, stage1_size: int, stage2_size: int) -> tuple[int, int]:
    """The requested sizes, or all of `available` in the same proportion if there are fewer tuples.

    Raises UserError for fewer than two tuples, since each stage needs one.
    """
    if available < 2:
        raise UserError(
            f"D_revision has {available} tuple{'' if available == 1 else 's'} and SFT needs at least 2 (one per "
            "stage): use more problems, NUM_RESPONSES or NUM_REVISIONS, or REVISE_CORRECT=1"
        )
    if available >= stage1_size + stage2_size:
        return stage1_size, stage2_size
    stage1 = round(available * stage1_size / (stage1_size + stage2_size))
    stage1 = min(max(stage1, 1), available - 1)
    return stage1, available - stage1


def stage_record(tuple_: dict[str, Any], stage: int) -> dict[str, Any]:
    """Prompt and completion as text, for readers, plus the parts of the tuple, from which ids are built.

    Stage 1: x -> y_init + P_r + y_revised. Stage 2: x + y_init + P_r -> y_revised.
    """
    cue = f"\n\n{tuple_['p_r']}\n\n"
    if stage == 1:
        prompt, completion = tuple_["x"], tuple_["y_init"] + cue + tuple_["y_revised"]
    else:
        prompt, completion = tuple_["x"] + "\n\n" + tuple_["y_init"] + cue, tuple_["y_revised"]
    return {**tuple_, "prompt": prompt, "completion": completion}


def prepare(argv: list[str]) -> None:
    """Split d_revision.json into <prefix>_stage1.json and <prefix>_stage2.json, without overlap."""
    config = load_config(CollectConfig, "srt_data", argv)
    prefix = data_prefix(config.data_prefix, config.mode, config.model_path)
    source = collection_dir(config.output_dir, prefix)
    tuples, run = _read_collection(source)
    sizes = stage_sizes(len(tuples), config.stage1_size, config.stage2_size)
    if sum(sizes) < config.stage1_size + config.stage2_size:
        print(
            f"note: {len(tuples)} tuples do not fill STAGE1_SIZE={config.stage1_size} and "
            f"STAGE2_SIZE={config.stage2_size}; the stages get {sizes[0]} and {sizes[1]}, in the same proportion"
        )
    order = list(range(len(tuples)))
    random.Random(config.seed).shuffle(order)
    chosen = (order[: sizes[0]], order[sizes[0] : sum(sizes)])
    phrases = PhraseSet.from_dict(run["identity"]["control_phrases"])
    paths = check_stage_files(config.train_data_dir, prefix, run["identity"])
    problems = problems_file(config.train_data_dir, prefix)
    for path in (*paths, problems):
        # If this is killed halfway, a stage of an older collection must not remain beside a new one.
        remove(path, "TRAIN_DATA_DIR")
    _copy_consumed(source / SRT_PROBLEMS, problems)
    for stage, (path, indices) in enumerate(zip(paths, chosen, strict=True), start=1):
        # Metadata first: the origin of a stage file without it would be unknown.
        metadata = run | {"stage": stage, "tuples": len(indices)}
        write_json(metadata_path(path), metadata, knob="TRAIN_DATA_DIR")
        write_json(path, [stage_record(tuples[index], stage) for index in indices], knob="TRAIN_DATA_DIR")
    print_summary(
        "SFT data",
        {
            "stage 1 (generation)": f"{sizes[0]} tuples, {paths[0]}",
            "stage 2 (revision)": f"{sizes[1]} tuples, {paths[1]}",
            "control phrases": phrases.name,
            **({"problems used": problems} if problems.is_file() else {}),
        },
    )
    knobs = {"MODEL_PATH": config.model_path, "MODE": None if config.mode == "math" else config.mode}
    print_next("sft", knobs | {"DATA_PREFIX": config.data_prefix, "TRAIN_DATA_DIR": config.train_data_dir})


def _read_collection(source: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """d_revision.json and run.json. Raises UserError where they are missing or damaged."""
    path = source / D_REVISION
    tuples = read_json(path)
    if not isinstance(tuples, list):
        raise UserError(f"{path}: expected a list of tuples, found {type(tuples).__name__}")
    for number, record in enumerate(tuples, start=1):
        parts = ("x", "y_init", "p_r", "y_revised")
        missing = [name for name in parts if not isinstance(record, dict) or not isinstance(record.get(name), str)]
        if missing:
            raise UserError(f"{path}, record {number}: no text in {', '.join(missing)}")
    run = read_run(source)
    if run is None:
        raise UserError(
            f"{source / 'run.json'}: no such file, so nothing says how {path} was collected; restore it"
        )
    if is_edited(path, run):
        print(f"note: {path} was edited since it was collected; it is split as it is")
    return tuples, run


def is_edited(path: Path, run: dict[str, Any]) -> bool:
    """Whether d_revision.json is no longer what the collection wrote last. Collections of old do not say."""
    written = run.get("results", {}).get(FINGERPRINT)
    return written is not None and path.is_file() and fingerprint(path.read_bytes()) != written


def forget_fingerprint(output_dir: Path) -> None:
    """Before d_revision.json is written anew: what is known of the one before does not fit it."""
    run = read_run(output_dir) or {}
    if FINGERPRINT in run.get("results", {}):
        del run["results"][FINGERPRINT]
        write_json(output_dir / RUN, run)


def check_stage_files(train_data_dir: str | None, prefix: str, identity: dict[str, Any]) -> list[Path]:
    """The paths of the stage files. Raises UserError where they hold those of another collection."""
    paths = [stage_file(train_data_dir, prefix, stage) for stage in (1, 2)]
    for path in map(metadata_path, paths):
        if not path.is_file():
            continue
        run = read_json(path)
        stored = run.get("identity") if isinstance(run, dict) else None
        if not isinstance(stored, dict):
            raise UserError(f"{path}: damaged, so nothing says which collection {prefix} belongs to; delete it")
        names = [name for name in {**stored, **identity} if stored.get(name) != identity.get(name)]
        if names:
            raise UserError(
                f"{path.parent} holds the stage files of another collection under the same DATA_PREFIX={prefix} "
                f"({', '.join(sorted(names))}); set another DATA_PREFIX, or delete {prefix}_stage1* and "
                f"{prefix}_stage2* there"
            )
    return paths


def _copy_consumed(source: Path, target: Path) -> None:
    if not source.is_file():
        print(f"note: {source} is missing, so Phase 2 cannot leave these problems out; run_srt_data.sh writes it")
        return
    with atomic_write(target, "TRAIN_DATA_DIR") as temporary:
        shutil.copyfile(source, temporary)


def metadata_path(stage_path: Path) -> Path:
    """The run.json of a stage file, beside it."""
    return stage_path.with_suffix(".run.json")
