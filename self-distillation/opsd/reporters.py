"""Where metrics and sample tables are shown (REPORT_TO): TensorBoard, Weights & Biases or Trackio.

metrics.jsonl has everything whatever is chosen here. Steps that a resumed run makes again are the same as before:
TensorBoard shows them once, Weights & Biases keeps the first ones, Trackio both.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from srt.common.errors import UserError, reason_of
from srt.contract.provenance import fingerprint

PROJECT = "sd-zero"  # unless WANDB_PROJECT or TRACKIO_PROJECT names another
SAMPLES = "samples"  # the name of the table
COLUMNS = ("step", "id", "r", "response", "mean_kl", "largest_kl", "token_of_largest_kl")


class Reporter(Protocol):
    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of one step, by name."""

    def samples(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """Responses of one step, a row of COLUMNS each."""

    def close(self) -> None: ...


def open_reporter(report_to: str, output_dir: Path, start_step: int, config: Mapping[str, Any]) -> Reporter | None:
    """The reporter of REPORT_TO; None for "none". `config`: shown beside the run.

    Raises UserError when the service cannot be used, an account is missing for example.
    """
    if report_to == "tensorboard":
        return TensorBoard(output_dir, start_step)
    if report_to == "none":
        return None
    try:
        return {"wandb": Wandb, "trackio": Trackio}[report_to](output_dir, config)
    except Exception as error:  # each service has many types, and they all mean the same to the user
        offline = {"wandb": "WANDB_MODE=offline needs no account", "trackio": "it writes to TRACKIO_DIR"}[
            report_to
        ]
        raise UserError(
            f"REPORT_TO={report_to} could not be opened ({reason_of(error)}); {offline}, and REPORT_TO=none does "
            "without"
        ) from error


def sample_row(sample: Mapping[str, Any]) -> list[Any]:
    """A line of samples.jsonl as a row of COLUMNS."""
    kl = sample["kl"]
    largest = max(range(len(kl)), key=kl.__getitem__)
    response, mean = "".join(sample["tokens"]), sum(kl) / len(kl)
    return [sample["step"], sample["id"], sample["r"], response, mean, kl[largest], sample["tokens"][largest]]


class TensorBoard:
    def __init__(self, output_dir: Path, start_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(output_dir / "tensorboard"), purge_step=start_step)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def samples(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """As a table in Markdown, which TensorBoard renders."""
        lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(value) for value in row] for row in rows)]
        self.writer.add_text(SAMPLES, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A resumed run continues the same one; WANDB_MODE=offline writes to <output_dir>/wandb alone."""

    def __init__(self, output_dir: Path, config: Mapping[str, Any]):
        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=fingerprint(str(output_dir.resolve())),
            name=output_dir.name,
            dir=str(output_dir),
            config=dict(config),
            resume="allow",
        )

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        self.run.log({SAMPLES: self.wandb.Table(columns=list(COLUMNS), data=list(map(list, rows)))}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """Local: the files are in TRACKIO_DIR, and `trackio show` displays them."""

    def __init__(self, output_dir: Path, config: Mapping[str, Any]):
        import trackio

        self.trackio = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{output_dir.name}-{fingerprint(str(output_dir.resolve()))[:6]}",
            config=dict(config),
            resume="allow",
            embed=False,
        )

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.trackio.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        table = self.trackio.Table(columns=list(COLUMNS), data=list(map(list, rows)))
        self.trackio.log({SAMPLES: table}, step=step)

    def close(self) -> None:
        self.trackio.finish()


def _cell(value: Any) -> str:
    """A value in a table of Markdown: on one line, and without its separator."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")
