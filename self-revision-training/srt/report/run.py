"""Configuration -> the files of a run -> summary.json, report.html and a table in the terminal."""

from dataclasses import dataclass
from pathlib import Path

from srt.common.errors import UserError
from srt.common.files import atomic_write, write_json
from srt.config import load_config, option
from srt.contract.paths import PHASE1
from srt.report.data import RunData, read_run
from srt.report.table import differing_settings, print_stage_table, summary, trained_problems


@dataclass(frozen=True)
class ReportConfig:
    """The configuration of the report. configs/report.yaml documents every knob and holds the defaults."""

    evaluation: str | None = option()
    collection: str | None = option()
    srt: str | None = option()
    distillation: str | None = option()
    examples: int = option(ge=0)
    output_dir: str | None = option()


def report(argv: list[str]) -> None:
    """Write summary.json and report.html; parts that the run does not have (yet) are left out and named.

    Raises UserError if there is nothing to report.
    """
    config = load_config(ReportConfig, "report", argv)
    run = read_run(config.evaluation, config.collection, config.srt, config.distillation)
    if run.is_empty:
        raise UserError(
            f"nothing to report ({'; '.join(run.missing)}): set EVALUATION, COLLECTION, SRT or DISTILLATION to "
            "the OUTPUT_DIR of that step"
        )
    output_dir = Path(config.output_dir or PHASE1 / "outputs" / "report")
    summary_path, page_path = output_dir / "summary.json", output_dir / "report.html"
    write_json(summary_path, summary(run.stages))
    _write_page(run, config.examples, page_path)

    if run.missing:
        print(f"left out of the report: {'; '.join(run.missing)}")
    if run.stages:
        print_stage_table(run.stages)
    for note in differing_settings(run.stages) + trained_problems(run.stages):
        print(f"note: {note}")
    print(f"\nreport:  {page_path}\nsummary: {summary_path}")


def _write_page(run: RunData, examples: int, path: Path) -> None:
    from srt.report.page import render_page  # imports matplotlib, which --help must not wait for

    with atomic_write(path) as temporary:
        # Surrogates (invalid Unicode in model outputs) become references, which browsers show as U+FFFD.
        temporary.write_text(render_page(run, examples), encoding="utf-8", errors="xmlcharrefreplace")
