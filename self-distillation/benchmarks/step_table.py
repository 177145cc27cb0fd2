"""The figures of whole_step.py's arms: rates and ratios, and the Markdown table."""

from typing import Any

from step_common import Options, Step

STOCK = "stock"
OURS = ("local", "nemo-rl")
COLUMNS = (
    "arm",
    "GPUs",
    "s/step",
    "tokens/step",
    "tokens/s",
    "to stock",
    "to synchronous",
    "parts of a step, s",
    "rollouts, tokens/s per GPU",
    "teacher, student: share of the card's rate",
    "peak GiB (training)",
    "start, s",
)


def with_rates(figures: dict[str, Any], options: Options) -> dict[str, Any]:
    """An arm's figures with what follows from its steps alone."""
    if "steps" not in figures:
        return figures
    from step_arithmetic import Arithmetic, step_work

    steps = [Step(**step) for step in figures["steps"]]
    seconds = sum(step.seconds for step in steps)
    tokens = sum(y for step in steps for _, y in step.lengths)
    names = list(dict.fromkeys(name for step in steps for name in step.parts))
    parts = {name: sum(step.parts.get(name, 0.0) for step in steps) / len(steps) for name in names}
    model, work = Arithmetic.of(options.model), {"teacher": 0.0, "student": 0.0}
    for step in steps:
        for name, operations in step_work(model, step, figures["cue"]).items():
            work[name] += operations / len(steps)
    apart = parts.get("teacher") and parts.get("student")  # TRL's are not
    rates = {name: work[name] / parts[name] / figures["gpus"] for name in work} if apart else {}
    peaks = [step.peak_gib for step in steps if step.peak_gib is not None]
    return figures | {
        "seconds_per_step": seconds / len(steps),
        "tokens_per_step": tokens / len(steps),
        "tokens_per_second": tokens / seconds,
        "microseconds_per_token": 1e6 * seconds / tokens,
        "responses": sorted(y for step in steps for _, y in step.lengths),
        "parts": parts,
        "generation_rate": tokens / len(steps) / parts["generation"] / figures["gpus"]
        if parts.get("generation")
        else None,
        "matrix_rates": rates,
        "training_peak_gib": max(peaks, default=None),
    }


def as_table(report: dict[str, Any]) -> str:
    rows = [row for row in report["arms"] if "seconds_per_step" in row]
    by_name = {row["arm"]: row for row in report["arms"]}
    lines = [
        f"{report['date']}, {report['commit']}, {report['hardware']}: `{report['command']}`",
        "",
        *_notes(report, rows),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(_cells(row, by_name)) + " |" for row in rows]
    lines += [f"\n{row['arm']}: failed, {row['failed']}" for row in report["arms"] if "failed" in row]
    return "\n".join(lines) + "\n"


def _notes(report: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """What the arms trained on, and what they are held against."""
    notes = []
    for row in rows[:1]:
        lengths = row["responses"]
        spread = f"{lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}"
        notes.append(f"{len(lengths)} responses of {spread}, over {len(row['steps'])} steps.")
    others = [row["arm"] for row in rows[1:] if row["responses"] != rows[0]["responses"]]
    if others:
        notes.append(f"Other responses than {rows[0]['arm']}: {', '.join(others)}; compare tokens/s.")
    elif len(rows) > 1:
        notes.append("All arms trained on responses of the same lengths.")
    for row in report["arms"]:
        if "flops" in row:
            notes.append(f"bf16 matrix product: {row['flops'] / 1e12:.0f} TFLOP/s.")
        if "rates" in row:
            rates = ", ".join(f"{rate:.0f} ({engines} engines)" for engines, rate in row["rates"].items())
            notes.append(f"vLLM offline, tokens/s per GPU with a step's requests over so many engines: {rates}.")
    return [" ".join(notes)]


def _cells(row: dict[str, Any], by_name: dict[str, dict[str, Any]]) -> list[str]:
    parts = sorted(row["parts"].items(), key=lambda part: -part[1])
    card = by_name.get("matmul", {}).get("flops")
    rates = [f"{rate / card:.0%}" for rate in row["matrix_rates"].values()] if card else []
    peak = f"{row['peak_gib']:.1f}" if row.get("peak_gib") else "-"
    training = f" ({row['training_peak_gib']:.1f})" if row.get("training_peak_gib") else ""
    return [
        row["arm"],
        str(row["gpus"]),
        f"{row['seconds_per_step']:.2f}",
        f"{row['tokens_per_step']:,.0f}",
        f"{row['tokens_per_second']:,.0f}",
        _ratio(row, by_name.get(STOCK)),
        _ratio(row, by_name.get(row["arm"].split()[0])) if row["arm"].startswith(OURS) else "",
        ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts if seconds >= 0.01 * row["seconds_per_step"]),
        _generation(row, by_name.get("offline", {}).get("rates", {})),
        ", ".join(rates),
        peak + training,
        f"{row['start_seconds']:.0f}",
    ]


def _ratio(row: dict[str, Any], base: dict[str, Any] | None) -> str:
    """Of tokens/s per GPU."""
    if not base or "tokens_per_second" not in base:
        return "-"
    return f"{row['tokens_per_second'] / row['gpus'] / (base['tokens_per_second'] / base['gpus']):.2f}x"


def _generation(row: dict[str, Any], offline: dict[str, float]) -> str:
    rate = row["generation_rate"]
    if rate is None:
        return "-"
    same = offline.get(str(row["gpus"]), offline.get(row["gpus"]))  # keys of JSON are text
    return f"{rate:,.0f}" + (f" ({rate / same:.0%} of offline)" if same else "")
