"""Samples of earlier evaluations: what was sampled alike, in another folder, is copied and not sampled again.

Alike means the same model (by its content), problems, prompts, sampling and seed; the number of responses and
of problems may differ, since a sample depends on neither. What is damaged there is sampled again here.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from srt.collect.attempts import set_aside_key
from srt.common.errors import UserError
from srt.common.files import read_json, write_jsonl
from srt.contract.paths import PHASE1
from srt.contract.records import Response, SampleKey, from_line

ATTEMPTS, SET_ASIDE = "attempts.jsonl", "set_aside.jsonl"
# Of the identity in run.json: what does not change a sample.
NOT_OF_SAMPLES = ("max_samples", "num_samples", "revise", "revise_share")
# r -> the phrase after which a response with this reward is revised; None if it is not.
PhraseAfter = Callable[[int], str | None]
DAMAGED = (LookupError, TypeError, ValueError)  # what the parts of a line raise that is not what it says


def reuse_samples(
    folder: Path,
    output_dir: Path,
    identity: dict[str, Any],
    revisions: dict[str, str],
    phrase_after: PhraseAfter,
    needs_logprob: Callable[[SampleKey], bool],
) -> None:
    """Fill the logs of a model's new `folder` with the samples of the largest evaluation that was sampled alike.

    It looks below PHASE1/outputs, in `output_dir`, which is `folder` or, with several models, holds it, and beside
    it. Responses are taken where their log-prob was recorded or is not needed, their revisions where the phrase is
    the one that this evaluation uses.
    """
    if (folder / ATTEMPTS).exists():
        return
    found = [run for run in _runs_near(output_dir) - {folder.resolve()} if _is_alike(run, identity, revisions)]
    source = max(sorted(found), key=lambda run: (run / ATTEMPTS).stat().st_size, default=None)
    if source is None:
        return
    attempts = list(_usable(_complete_lines(source / ATTEMPTS), phrase_after, needs_logprob))
    # The attempts come last: they are what marks this as done.
    write_jsonl(folder / SET_ASIDE, _responses_set_aside(source / SET_ASIDE))
    write_jsonl(folder / ATTEMPTS, attempts)
    print(f"reusing {len(attempts)} samples of {source}, which were sampled alike")


def _complete_lines(path: Path) -> Iterator[Any]:
    """The JSON of a log that may be growing: without a last line that is being written, and damaged ones."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            yield json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue


def _usable(
    lines: Iterable[Any], phrase_after: PhraseAfter, needs_logprob: Callable[[SampleKey], bool]
) -> Iterator[dict]:
    """The responses, and those of their revisions that this evaluation would sample in the same way."""
    reward: dict[SampleKey, int] = {}
    for line in lines:
        try:
            record = from_line(line)
        except DAMAGED:
            continue
        if isinstance(record, Response):
            if record.y_init_logprob is not None or not needs_logprob(record.key):
                reward[record.key] = record.r
                yield line
        elif record.key.response_key in reward and record.p_r == phrase_after(reward[record.key.response_key]):
            yield line


def _responses_set_aside(path: Path) -> Iterator[dict]:
    for line in _complete_lines(path) if path.is_file() else ():
        try:
            is_response = set_aside_key(line).revision is None
        except DAMAGED:
            continue
        if is_response:
            yield line


def _runs_near(output_dir: Path) -> set[Path]:
    """Those of one model, and those of several, which are a folder deeper."""
    return {
        path.parent.resolve()
        for place in (PHASE1 / "outputs", output_dir.parent)
        for pattern in ("*", "*/*")
        for path in place.glob(f"{pattern}/run.json")
        if (path.parent / ATTEMPTS).is_file()
    }


def _is_alike(run: Path, identity: dict[str, Any], revisions: dict[str, str]) -> bool:
    try:
        stored = read_json(run / "run.json")
        theirs = stored.get("revisions") or {}
        return _of_samples(stored.get("identity") or {}) == _of_samples(identity) and all(
            theirs[name] == revisions[name] for name in theirs.keys() & revisions.keys()
        )
    except (UserError, AttributeError):  # another run's broken file is no reason to stop this one
        return False


def _of_samples(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in NOT_OF_SAMPLES}
