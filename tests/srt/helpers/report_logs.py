"""What the steps of a run log beside their results: attempts, validations, warnings, synchronizations."""

from pathlib import Path

from srt.common.files import JsonlLog
from srt.contract.records import Response, Revision, as_line
from tests.srt.helpers.report_runs import response, revision

OUTCOMES = ((False, True), (False, False), (True, True), (True, False))


def write_log(path: Path, lines: list[dict]) -> None:
    log = JsonlLog(path)
    for line in lines:
        log.append(line)
    log.close()


def write_attempts(folder: Path, records: list[Response | Revision]) -> None:
    write_log(folder / "attempts.jsonl", [as_line(record) for record in records])


def collection_attempts(problems: int, y_init: str = "\\boxed{8}") -> list[Response | Revision]:
    """Responses and revisions with every outcome in turn; every fifth response is not revised."""
    records: list[Response | Revision] = []
    for index in range(problems):
        first, second = OUTCOMES[index % 4]
        records.append(response(index, 0, first, y_init))
        if index % 5 != 4:
            records.append(revision(index, 0, int(first), second))
    return records


def evaluation_attempts(right: int, k: int = 8, problems: int = 3) -> list[Response | Revision]:
    """`right` of k responses to each problem are correct, all are revised."""
    records: list[Response | Revision] = []
    for problem in range(problems):
        responses = [response(problem, index, index < right, f"answer {index}") for index in range(k)]
        records += [*responses, *(revision(problem, index, responses[index].r, True) for index in range(k))]
    return records


def write_distillation_logs(folder: Path) -> None:
    """Validations at 0, 10 and 20 finished steps, warnings, and a teacher that was synchronized after step 14."""
    values = {"response_tokens": 30.0, "truncated": 0.0, "revisions_r0": 8, "revisions_r1": 12, "pass_at_k": 0.8}
    validations = [
        {"step": step - 1, "avg_at_k": 0.5 + step / 100, "revise_r0": 0.3, "revise_r1": 0.9 - step / 100} | values
        for step in (0, 10, 20)
    ]
    write_log(folder / "validation.jsonl", validations)
    warnings = [{"step": -1, "warning": "keeps only 33.7% of them"}, {"step": 7, "warning": "<b>reward fell</b>"}]
    write_log(folder / "warnings.jsonl", warnings)
    syncs = [{"step": 9, "synced": False, "reason": "too few"}, {"step": 14, "synced": True}]
    write_log(folder / "teacher_sync.jsonl", syncs)


def write_logs(run: Path) -> None:
    """Everything that `write_run` does not write."""
    for index, key in enumerate(("base", "stage1", "srt", "sd_zero")):
        write_attempts(run / "evaluation" / key, evaluation_attempts(2 * index))
    write_attempts(run / "collection", collection_attempts(40))
    write_distillation_logs(run / "distillation")
