"""Configuration -> the files of a run -> summary.json, report.html and a table in the terminal; or a live page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.common.files import atomic_write, write_json
from srt.config import load_config, option
from srt.contract.paths import PHASE1
from srt.report.data import RunData, read_run
from srt.report.folders import RunFolders, find_run, with_distinct_labels
from srt.report.table import notes, print_stage_table, summary
from srt.report.watch import LivePage, serve

WATCH = "--watch"
INPUTS = ("evaluation", "collection", "srt", "distillation")


@dataclass(frozen=True)
class ReportConfig:
    """The configuration of the report. configs/report.yaml documents every knob and holds the defaults."""

    evaluation: str | None = option(path=True)
    collection: str | None = option(path=True)
    srt: str | None = option(path=True)
    distillation: str | None = option(path=True)
    examples: int = option(ge=0)
    browse: int = option(ge=0, le=5000)
    watch_port: int = option(ge=0, le=65535)
    output_dir: str | None = option(path=True)


def report(argv: list[str]) -> None:
    """Write summary.json and report.html, or with --watch serve the page while its runs go on.

    With --dry-run, only print what would be in it.

    argv: knobs, and the folders of runs (RUN ...). Parts that a run does not have (yet) are left out and named.
    Raises UserError if there is nothing to report.
    """
    paths = [Path(argument).expanduser() for argument in argv if _is_run(argument)]
    config = load_config(ReportConfig, "report", knobs_among(argv))
    folders = _folders(config, paths)
    output_dir = Path(config.output_dir or PHASE1 / "outputs" / "report")
    summary_path, page_path = output_dir / "summary.json", output_dir / "report.html"
    if DRY_RUN in argv:
        show_plan(read_runs(folders, config.browse), page_path)
        return
    if WATCH in argv:
        serve(LivePage(lambda: _folders(config, paths), lambda now: _live_page(now, config)), config.watch_port)
        return
    runs = read_runs(folders, config.browse)
    stages = [replace(s, run_label=run.label if len(runs) > 1 else "") for run in runs for s in run.stages]
    write_json(summary_path, summary(stages))
    _write_page(runs, config, page_path)

    missing = [f"{run.label}: {part}" if len(runs) > 1 else part for run in runs for part in run.missing]
    if missing:
        print(f"left out of the report: {'; '.join(missing)}")
    if stages:
        print_stage_table(stages)
    for note in notes(stages):
        print(f"note: {note}")
    print(f"\nreport:  {page_path}\nsummary: {summary_path}")


def show_plan(runs: Sequence[RunData], page_path: Path) -> None:
    """Which parts each run has, and where the report would be."""
    for run in runs:
        evaluated = ", ".join(stage.name for stage in run.stages)
        parts = {
            f"evaluations ({evaluated})": evaluated,
            f"collection ({len(run.tuples):,} tuples)": run.collection or run.tuples,
            f"SFT ({', '.join(f'stage {stage}' for stage in run.sft_logs)})": run.sft_logs,
            f"self-distillation ({len(run.steps):,} steps, {len(run.validations)} validations)": run.steps,
        }
        print(f"{run.label}: {', '.join(part for part, found in parts.items() if found)}")
        for part in run.missing:
            print(f"  left out: {part}")
    replaced = " (it exists and would be replaced)" if page_path.exists() else ""
    print(f"report: {page_path}{replaced}\ndry run: nothing was written")


def knobs_among(argv: Sequence[str]) -> list[str]:
    """The arguments that are neither a RUN nor --watch or --dry-run."""
    return [argument for argument in argv if argument not in (WATCH, DRY_RUN) and not _is_run(argument)]


def read_runs(folders: Sequence[RunFolders], browse: int) -> list[RunData]:
    """Raises UserError when one of the runs has nothing to show, and what `read_run` raises."""
    runs = [read_run(each, browse) for each in folders]
    for run in runs:
        if run.is_empty:
            raise UserError(
                f"nothing to report ({'; '.join(run.missing)}): set EVALUATION, COLLECTION, SRT or DISTILLATION "
                "to the OUTPUT_DIR of that step, or name the folder of a run (bash scripts/report.sh RUN)"
            )
    return runs


def _is_run(argument: str) -> bool:
    """What exists, and what is neither a knob nor an option."""
    is_knob = "=" in argument or argument.startswith("-")
    return not is_knob or (argument not in (WATCH, DRY_RUN) and Path(argument).expanduser().exists())


def _folders(config: ReportConfig, paths: Sequence[Path]) -> list[RunFolders]:
    values = {name: getattr(config, name) for name in INPUTS}
    named = [name.upper() for name, value in values.items() if value]
    if paths and named:
        raise UserError(
            f"{', '.join(map(str, paths))} and {', '.join(named)}: name either the folders of runs, or the knobs "
            "for the folders of one"
        )
    if paths:
        return with_distinct_labels([find_run(path) for path in paths], paths)
    evaluation, collection, srt, distillation = (
        Path(value).expanduser() if value else None for value in values.values()
    )
    return [RunFolders("run", evaluation, collection, srt, distillation)]


def _live_page(folders: Sequence[RunFolders], config: ReportConfig) -> str:
    from srt.report.page import render_page

    return render_page(read_runs(folders, config.browse), config.examples, config.browse, live=True)


def _write_page(runs: Sequence[RunData], config: ReportConfig, path: Path) -> None:
    from srt.report.page import render_page  # imports matplotlib, which --help must not wait for

    with atomic_write(path) as temporary:
        # Surrogates (invalid Unicode in model outputs) become references, which browsers show as U+FFFD.
        page = render_page(runs, config.examples, config.browse)
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
