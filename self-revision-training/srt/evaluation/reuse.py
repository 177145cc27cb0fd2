"""Samples of earlier evaluations: what was sampled alike, in another folder, is copied and not sampled again.

Alike means the same model (by its fingerprint), problems, prompts, sampling and seed; the number of responses and
of problems may differ, since a sample depends on neither.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import parse_jsonl, read_json, write_jsonl
from srt.contract.paths import PHASE1
from srt.contract.records import SampleKey

ATTEMPTS, SET_ASIDE = "attempts.jsonl", "set_aside.jsonl"
# Of the identity in run.json: what does not change a sample.
NOT_OF_SAMPLES = ("max_samples", "num_samples", "revise", "revise_share")
# r -> the phrase after which a response with this reward is revised; None if it is not.
PhraseAfter = Callable[[int], str | None]


def reuse_samples(
    output_dir: Path, identity: dict[str, Any], revisions: dict[str, str], phrase_after: PhraseAfter
) -> None:
    """Fill the logs of a new `output_dir` with the samples of the largest evaluation that was sampled alike.

    It looks among the evaluations below PHASE1/outputs, beside `output_dir`, and beside its parent. Revisions are
    taken where the phrase is the one that this evaluation uses.
    """
    if (output_dir / ATTEMPTS).exists():
        return
    found = [run for run in _runs_near(output_dir) if _is_alike(run, identity, revisions)]
    source = max(found, key=lambda run: (run / ATTEMPTS).stat().st_size, default=None)
    if source is None:
        return
    attempts = list(_usable(read_complete(source / ATTEMPTS), phrase_after))
    aside = source / SET_ASIDE
    # The attempts come last: they are what marks this as done.
    write_jsonl(
        output_dir / SET_ASIDE,
        (line for line in (read_complete(aside) if aside.is_file() else ()) if SampleKey(*line["key"])[2] is None),
    )
    write_jsonl(output_dir / ATTEMPTS, attempts)
    print(f"reusing {len(attempts)} samples of {source}, which were sampled alike")


def read_complete(path: Path) -> list[dict]:
    """The complete lines of a log that may be growing: without a last line that is being written."""
    data = path.read_bytes()
    return list(parse_jsonl(data[: data.rfind(b"\n") + 1].decode("utf-8"), path))


def _usable(lines: Iterable[dict], phrase_after: PhraseAfter) -> Iterator[dict]:
    """The responses, and those of their revisions that this evaluation would sample in the same way."""
    reward: dict[tuple[int, int], int] = {}
    for line in lines:
        key = (line["problem_idx"], line["response_idx"])
        if line["kind"] == "response":
            reward[key] = int(line["y_init_correct"])
            yield line
        elif line["p_r"] == phrase_after(reward[key]):
            yield line


def _runs_near(output_dir: Path) -> list[Path]:
    outputs = PHASE1 / "outputs"
    patterns = [(outputs, "*"), (outputs, "*/*"), (output_dir.parent, "*"), (output_dir.parent.parent, "*")]
    runs = {
        path.parent.resolve()
        for folder, pattern in patterns
        for path in folder.glob(f"{pattern}/run.json")
        if (path.parent / ATTEMPTS).is_file()
    }
    return sorted(runs - {output_dir.resolve()})


def _is_alike(run: Path, identity: dict[str, Any], revisions: dict[str, str]) -> bool:
    try:
        stored = read_json(run / "run.json")
    except UserError:  # another run's broken file is no reason to stop this one
        return False
    theirs = stored.get("revisions") or {}
    return _of_samples(stored.get("identity") or {}) == _of_samples(identity) and all(
        theirs[name] == revisions[name] for name in theirs.keys() & revisions.keys()
    )


def _of_samples(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in NOT_OF_SAMPLES}
