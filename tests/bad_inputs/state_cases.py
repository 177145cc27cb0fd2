"""What earlier runs left: damaged, edited, half deleted, or of another run."""

import fcntl
import os

from srt.collect.split import metadata_path, stage_record
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import write_metadata
from srt.contract.records import pack_ids
from tests.bad_inputs.place import IDENTITY, QWEN, TUPLE, Case, Content, Place

OLMO = {"identity": {"control_phrases": PHRASE_SETS["olmo"].as_dict(), "mode": "math"}}
RUNS = ("collect", "sft", "distill", "evaluate")
RUN_FILES: dict[str, tuple[Content, str]] = {
    "null": ("null", "run.json: damaged (expected an object with the identity"),
    "an empty object": ("{}", "run.json: damaged"),
    "a list": ("[]", "run.json: damaged"),
    "half": ('{"identity": {', "run.json: not readable as JSON"),
    "Latin-1": (b'{"a": "\xe9"}', "run.json: not readable as JSON"),
    "a text as identity": ({"identity": "mine"}, "run.json: damaged"),
    "other settings": ({"identity": {"seed": 7}}, "holds a run with other settings"),
}
ORPHANS = {  # entry point -> a result without run.json
    "collect": "attempts.jsonl",
    "sft": "stage1/config.json",
    "distill": "checkpoints/step_000002/state.json",
    "evaluate": "evaluation.json",
}
STAGE_FILES: dict[str, tuple[Content, str]] = {
    "empty": ("[]", "expected a list with at least one tuple"),
    "an object": ("{}", "expected a list with at least one tuple"),
    "null": ("null", "expected a list with at least one tuple"),
    "half": ("[{", "not readable as JSON"),
    "no bytes": ("", "not readable as JSON"),
    "without y_revised": ([{k: v for k, v in TUPLE.items() if k != "y_revised"}], "record 1: missing y_revised"),
    "numbers as records": ([TUPLE, 5], "record 2: missing x, y_init, p_r, y_revised"),
    "a number as text": ([TUPLE | {"y_init": 5}], "record 1: y_init is a int; expected text"),
    "a list as text": ([TUPLE | {"x": ["x"]}], "record 1: x is a list; expected text"),
    "another phrase": ([TUPLE | {"p_r": "Hm."}], "its control phrase 'Hm.' is not in the set 'qwen'"),
    "an edited completion": (
        [stage_record(TUPLE, 1) | {"completion": "mine"}],
        "record 1: its completion was edited, and SFT reads x, y_init, p_r, y_revised instead",
    ),
    "an edited prompt": ([stage_record(TUPLE, 1) | {"prompt": "mine"}], "record 1: its prompt was edited"),
}
METADATA: dict[str, tuple[Content, str]] = {
    "null": ("null", "d_stage1.run.json: damaged"),
    "no identity": ("{}", "d_stage1.run.json: damaged"),
    "half": ("{", "d_stage1.run.json: not readable as JSON"),
    "another mode": ({"identity": {"mode": "code"}}, "MODE=math contradicts"),
    "half of the phrases": ({"identity": {"control_phrases": {"0": "a"}}}, "control phrases are damaged"),
}
TUPLES: dict[str, tuple[Content, str]] = {
    "null": ("null", "d_revision.json: expected a list of tuples, found NoneType"),
    "an object": ("{}", "d_revision.json: expected a list of tuples, found dict"),
    "half": ("[", "d_revision.json: not readable as JSON"),
    "a number": ("[5]", "d_revision.json, record 1: no text in x, y_init, p_r, y_revised"),
    "a number as text": ([TUPLE, TUPLE | {"y_revised": 3}], "d_revision.json, record 2: no text in y_revised"),
    "one tuple": ([TUPLE], "D_revision has 1 tuple and SFT needs at least 2"),
}
LOCKED: list[int] = []  # open until the tests end


def in_use(place: Place) -> dict:
    place.output.mkdir()
    LOCKED.append(os.open(place.output, os.O_RDONLY))
    fcntl.flock(LOCKED[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return {}


def finished(place: Place, name: str, spoil: str) -> dict:
    """A finished checkpoint in the folder of the run, of which a file is then cut or deleted."""
    place.write(f"output/{name}/model.safetensors", bytes(100))
    write_metadata(place.output / name, {"control_phrases": QWEN.as_dict()})
    weights = place.output / name / "model.safetensors"
    weights.unlink() if spoil == "deleted" else weights.write_bytes(bytes(50))
    place.write("output/run.json", {"identity": {}})
    return {}


def damaged_ids(place: Place) -> dict:
    from srt.common.models import load_tokenizer
    from srt.contract.provenance import tokenizer_fingerprint

    identity = IDENTITY["identity"] | {
        "tokenizer_fingerprint": tokenizer_fingerprint(load_tokenizer(str(place.tiny)))
    }
    record = TUPLE | {"y_init_ids": "no ids", "y_revised_ids": pack_ids([5])}
    return place.stage([record], {"identity": identity})


CASES = [
    *(
        Case(f"{run}: run.json is {name}", run, lambda p, c=content: p.outputs(run__json=c), sentence)
        for index, (name, (content, sentence)) in enumerate(RUN_FILES.items())
        for run in (RUNS[index % 4], RUNS[(index + 1) % 4])
    ),
    *(
        Case(
            f"{run}: {orphan} without run.json",
            run,
            lambda p, o=orphan: {"REPORT_TO": "none"} if p.write(f"output/{o}", "{}") else {},
            "and no run.json, so nothing says what made it",
        )
        for run, orphan in ORPHANS.items()
    ),
    *(
        Case(f"a stage file: {name}", "sft", lambda p, c=content: p.stage(c), sentence)
        for name, (content, sentence) in STAGE_FILES.items()
    ),
    *(
        Case(f"run.json of a stage file: {name}", "sft", lambda p, c=content: p.stage([TUPLE], c), sentence)
        for name, (content, sentence) in METADATA.items()
    ),
    *(
        Case(
            f"d_revision.json: {name}",
            "prepare",
            lambda p, c=content: p.outputs(d_revision__json=c, run__json=IDENTITY),
            sentence,
        )
        for name, (content, sentence) in TUPLES.items()
    ),
    Case("token ids that are none", "sft", damaged_ids, "record 1: expected token ids as"),
    Case("nothing collected", "prepare", lambda p: {}, "d_revision.json: no such file"),
    Case(
        "tuples without run.json",
        "prepare",
        lambda p: p.outputs(d_revision__json=[TUPLE] * 2),
        "run.json: no such",
    ),
    Case(
        "stage files of two collections",
        "sft",
        lambda p: p.stage([TUPLE], IDENTITY) | p.stage([TUPLE], OLMO, stage=2),
        "come from different collections (control_phrases)",
    ),
    Case(
        "prepare: stage files of another collection",
        "prepare",
        lambda p: p.stage([TUPLE], OLMO) | p.outputs(d_revision__json=[TUPLE] * 3, run__json=IDENTITY),
        "holds the stage files of another collection under the same DATA_PREFIX=d (control_phrases)",
    ),
    Case(
        "collect: stage files of another collection",
        "collect",
        lambda p: p.stage([TUPLE], OLMO),
        "holds the stage files of another collection under the same DATA_PREFIX=d (",
    ),
    Case(
        "stage files of a damaged collection",
        "prepare",
        lambda p: p.stage([TUPLE], "null") | p.outputs(d_revision__json=[TUPLE] * 3, run__json=IDENTITY),
        "damaged, so nothing says which collection d belongs to",
    ),
    *(
        Case(
            f"{run}: weights of the finished {name} are {spoil}",
            run,
            lambda p, n=name, s=spoil: finished(p, n, s),
            "model.safetensors is missing" if spoil == "deleted" else "model.safetensors has 50 bytes",
        )
        for run, name in (("sft", "stage2"), ("sft", "stage1"), ("distill", "student"))
        for spoil in ("deleted", "cut")
    ),
    *(Case(f"{run}: a folder in use", run, in_use, "is in use by another process") for run in RUNS),
    Case(
        "no stage files",
        "sft",
        lambda p: {"DATA_PREFIX": metadata_path(p.stage_file(9)).stem},
        "no such stage file; run run_srt_data.sh first, or set DATA_PREFIX",
    ),
]
