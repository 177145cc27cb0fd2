"""The charts of supervised fine-tuning and of Phase 2, over one run or several."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from srt.contract import metrics as names
from srt.contract.metrics import by_reward
from srt.report.charts import (
    CORRECT,
    MAIN,
    SECOND,
    VALIDATION,
    WRONG,
    Chart,
    Points,
    Series,
    is_number,
    metric_points,
)
from srt.report.data import RunData, record_of

REWARD_ROLES = (WRONG, CORRECT)
PARTS = "parts"  # role prefix of the parts of a step


def _series(runs: Sequence[RunData], curve: Callable[[RunData], Points], label: str, *style: Any) -> list[Series]:
    return [
        Series(f"{run.label}: {label}" if len(runs) > 1 else label, curve(run), *style, run=index)
        for index, run in enumerate(runs)
    ]


# Supervised fine-tuning ---------------------------------------------------------------------------------


def sft_charts(runs: Sequence[RunData]) -> Iterator[Chart]:
    def over_updates(key: str, stage: int) -> Callable[[RunData], Points]:
        return lambda run: metric_points(
            [line for line in run.sft_logs.get(stage, []) if isinstance(line.get("step"), int)], key
        )

    def both_stages(
        key: str, suffix: str = "", roles: tuple[str, str] = (SECOND, MAIN), exact=False
    ) -> list[Series]:
        series = []
        for stage, role in zip((1, 2), roles, strict=True):
            series += _series(runs, over_updates(key, stage), f"stage {stage}{suffix}", role, exact)
        return series

    validation = both_stages("eval_loss", ", validation", (VALIDATION, VALIDATION), exact=True)
    on = "stage 1 on y_init, P_r and y_revised, stage 2 on y_revised; nats per token"
    yield Chart("sft_loss", "Loss", on, both_stages("loss") + validation, x="update")
    yield Chart(
        "sft_accuracy",
        "Token accuracy",
        "share of supervised tokens that are the most likely one",
        both_stages("mean_token_accuracy"),
        x="update",
        share=True,
        from_zero=False,
    )
    yield Chart("sft_entropy", "Entropy", "nats per token", both_stages("entropy"), x="update")
    yield Chart("sft_grad_norm", "Gradient norm", "before clipping", both_stages("grad_norm"), x="update")
    yield Chart("sft_lr", "Learning rate", "", both_stages("learning_rate", exact=True), x="update")


# Phase 2 ------------------------------------------------------------------------------------------------


def distillation_charts(runs: Sequence[RunData]) -> Iterator[Chart]:
    """Validation metrics are those of the weights after a step, all others of the weights before it."""

    def training(label: str, name: str, role: str = MAIN, exact: bool = False) -> list[Series]:
        return _series(runs, lambda run: metric_points(run.steps, name), label, role, exact)

    def validation(label: str, name: str, role: str = VALIDATION) -> list[Series]:
        return _series(runs, lambda run: validation_points(run, name), label, role, True)

    def for_each_reward(name: str) -> list[Series]:
        return [s for r in (0, 1) for s in training(f"r = {r}", by_reward(name, r), REWARD_ROLES[r])]

    ks = {str(record_of(run.distillation, "config").get("val_num_samples", "k")) for run in runs}
    k = ks.pop() if len(ks) == 1 else "k"
    syncs = [line["step"] + 1 for run in runs for line in run.teacher_syncs if line["synced"] is True]
    best_of_k = validation(f"validation pass@{k}", names.PASS_AT_K, SECOND) if k != "1" else []
    yield Chart(
        "reward",
        "Reward",
        "share of correct responses"
        + ("; pass@k: of problems with one" if any(s.points for s in best_of_k) else ""),
        training("training responses", names.REWARD)
        + validation(f"validation avg@{k}", names.AVG_AT_K)
        + best_of_k,
        share=True,
        from_zero=False,
    )
    yield Chart(
        "revise",
        "Accuracy of revisions",
        "validation: share of correct revisions of wrong (r\u00a0=\u00a00) and of correct responses",
        [s for r in (0, 1) for s in validation(f"r = {r}", by_reward(names.REVISE, r), REWARD_ROLES[r])],
        share=True,
    )
    yield Chart("kl", "KL to the teacher", "nats per token", for_each_reward(names.KL), marks=syncs)
    yield Chart(
        "tokens",
        "Response length",
        "mean tokens",
        training("training", names.RESPONSE_TOKENS)
        + training("training, 90th percentile", names.RESPONSE_TOKENS_P90, SECOND)
        + validation("validation", names.RESPONSE_TOKENS),
    )
    yield Chart(
        "truncated",
        "Truncated",
        "share of responses cut off",
        training("training", names.TRUNCATED) + validation("validation", names.TRUNCATED),
        share=True,
    )
    yield Chart(
        "entropy",
        "Entropy",
        "nats per token",
        training("student", names.ENTROPY)
        + training("teacher", names.TEACHER_ENTROPY, SECOND)
        + validation("validation", names.ENTROPY),
    )
    yield Chart(
        "top1_agreement",
        "Top-1 agreement",
        "share of tokens with the same argmax",
        for_each_reward(names.TOP1_AGREEMENT),
        share=True,
        from_zero=False,
    )
    yield Chart(
        "logprob_gap", "Log-prob gap", "between sampler and trainer, nats", training("gap", names.LOGPROB_GAP)
    )
    yield Chart("grad_norm", "Gradient norm", "before clipping", training("norm", names.GRAD_NORM))
    yield Chart(
        "losses",
        "Other losses",
        "before their weights; nats per token",
        training("reward loss", names.REWARD_LOSS) + training("replay loss", names.REPLAY_LOSS, SECOND),
        from_zero=False,
    )
    yield Chart(
        "clipped",
        "Clipped tokens",
        "share of tokens above KL_CLIP",
        training("clipped", names.KL_CLIPPED),
        share=True,
    )
    yield Chart("lr", "Learning rate", "at the end of the step", training("rate", names.LR, MAIN, True))
    yield Chart("seconds", "Seconds per step", "and where they go", list(_seconds(runs)))
    yield Chart(
        "throughput",
        "Throughput",
        "tokens per second of the whole step",
        _series(runs, lambda run: _throughput(run, _sampled_tokens), "sampled")
        + _series(runs, lambda run: _throughput(run, _trained_tokens), "trained", SECOND),
    )
    yield Chart(
        "memory", "Peak GPU memory", "GiB of the training process", training("peak", names.PEAK_MEMORY_GIB)
    )


def validation_points(run: RunData, name: str) -> Points:
    """From validation.jsonl, which also has the validation before the first step; before version 0.2 there was
    none, and metrics.jsonl has the others."""
    if run.validations:
        return metric_points(run.validations, name, shift=1)
    return metric_points(run.steps, f"{names.VALIDATION}{name}", shift=1)


def _seconds(runs: Sequence[RunData]) -> Iterator[Series]:
    """The total, and for a single run each part."""
    yield from _series(runs, lambda run: [(step, sum(parts.values())) for step, parts in _parts(run)], "total")
    if len(runs) > 1:
        return
    (run,) = runs
    for index, part in enumerate(dict.fromkeys(part for _, parts in _parts(run) for part in parts)):
        points = [(step, parts[part]) for step, parts in _parts(run) if part in parts]
        yield Series(part, points, f"{PARTS}{index}")


def _parts(run: RunData) -> Iterator[tuple[int, dict[str, float]]]:
    for line in run.steps:
        seconds = line.get(names.SECONDS)
        if isinstance(seconds, dict) and (parts := {key: v for key, v in seconds.items() if is_number(v)}):
            yield line["step"], parts


def _sampled_tokens(line: dict[str, Any]) -> float | None:
    tokens, rollouts = line.get(names.RESPONSE_TOKENS), line.get(names.ROLLOUTS)
    return tokens * rollouts if is_number(tokens) and is_number(rollouts) else None


def _trained_tokens(line: dict[str, Any]) -> float | None:
    tokens = line.get(names.TRAINED_TOKENS)
    return tokens if is_number(tokens) else None


def _throughput(run: RunData, tokens_of: Callable[[dict[str, Any]], float | None]) -> Points:
    by_step = {line["step"]: tokens_of(line) for line in run.steps}
    return [
        (step, tokens / sum(parts.values()))
        for step, parts in _parts(run)
        if (tokens := by_step[step]) is not None and sum(parts.values()) > 0
    ]
