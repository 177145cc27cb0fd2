"""Configuration -> graded responses -> scores of each pair -> localization.json and localization.html."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from opsd.check_teacher import check_teacher
from opsd.localize.config import NOT_IDENTITY, LocalizeConfig, ModelPair, model_pairs
from opsd.localize.dry_run import show_plan
from opsd.localize.existing_run import ExistingRun
from opsd.localize.models import open_models
from opsd.localize.page import write_page
from opsd.localize.records import ScoredResponse
from opsd.localize.responses import GradedResponse, sample_responses
from opsd.localize.scoring import PairScorer
from opsd.localize.summary import headline, print_pairs, summarize
from opsd.localize.variants import Variants
from opsd.run import within_context
from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.common.files import JsonlLog, lock_folder, write_json
from srt.common.models import check_gpu, padding_id, vocab_size
from srt.common.progress import Progress
from srt.common.remote_code import allow_remote_code
from srt.config import load_config
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.layout import Layout
from srt.contract.model_identity import model_identity
from srt.contract.paths import PHASE2, evaluation_or_default
from srt.contract.provenance import close_run, known, model_revision, open_run
from srt.contract.records import Problem
from srt.problems import ProblemSet, load_problems, set_aside_bad_records
from srt.verifiers.factory import check_verifier


@dataclass(frozen=True)
class Localization:
    """Everything that was checked and read before a model is opened. `layouts`: by name of the pair. `problems`:
    None with RUN, `run`: None without."""

    config: LocalizeConfig
    pairs: list[ModelPair]
    layouts: dict[str, Layout]
    problems: ProblemSet | None
    run: ExistingRun | None
    dataset: str
    output_dir: Path

    @property
    def chosen_problems(self) -> list[Problem]:
        return self.problems.problems[: self.config.max_samples] if self.problems else []

    def folder(self, pair: ModelPair) -> Path:
        """Of the pair's run: run.json, attempts.jsonl and scores.jsonl."""
        return self.output_dir / pair.name


def localize(argv: list[str]) -> None:
    """Write localization.json and localization.html; with --dry-run, only print what would be done.

    A pair that is finished is on the page before the next one begins.
    """
    config = load_config(LocalizeConfig, "localize", [argument for argument in argv if argument != DRY_RUN])
    localization = prepare(config)
    if DRY_RUN in argv:
        show_plan(localization)
        return
    lock_folder(localization.output_dir)
    responses: dict[str, list[GradedResponse]] = {}  # by student
    if localization.run:  # before the folders are claimed: a RUN that is refused leaves them free for another
        for pair in localization.pairs:
            responses[pair.student] = _graded(localization, pair)
    for pair in localization.pairs:
        _claim(localization, pair)
    if localization.problems:
        set_aside_bad_records(localization.problems, localization.output_dir)
    finished: list[dict[str, Any]] = []
    scored: dict[str, list[ScoredResponse]] = {}  # by name of the pair
    for pair in localization.pairs:
        if pair.student not in responses:
            responses[pair.student] = _graded(localization, pair)
        scored[pair.name] = _score(localization, pair, responses[pair.student])
        summary = summarize(pair, scored[pair.name], localization.layouts[pair.name], config.seed)
        finished.append(summary)
        close_run(localization.folder(pair), headline(summary))
        _write(localization, finished, scored)
    print_pairs(finished)
    folder = localization.output_dir
    print(f"\npage:    {folder / 'localization.html'}\nsummary: {folder / 'localization.json'}")


def prepare(config: LocalizeConfig) -> Localization:
    """Raises UserError for whatever can be found wrong before a model is opened."""
    allow_remote_code(config.trust_remote_code)
    check_gpu()
    run = ExistingRun.open(Path(config.run)) if config.run else None
    pairs = model_pairs(config, run and run.student, run and run.teacher)
    output_dir = Path(config.output_dir or PHASE2 / "results" / f"localize_{pairs[0].name}")
    layouts: dict[str, Layout] = {}
    for pair in pairs:
        layout = layouts[pair.name] = layout_of_checkpoint(pair.student, config, output_dir / pair.name)
        check_teacher(pair.student, pair.teacher, config.mode, layout)
    if run:
        return Localization(config, pairs, layouts, None, run, str(run.folder), output_dir)
    check_verifier(config)
    dataset, split = evaluation_or_default(config.mode, config.dataset, config.dataset_split)
    config = replace(config, dataset=dataset, dataset_split=split)
    problems = load_problems(dataset, config.mode, config.dataset_subset, split, config.min_tests)
    return Localization(config, pairs, layouts, problems, None, dataset, output_dir)


def _claim(localization: Localization, pair: ModelPair) -> None:
    """Raises UserError when the pair's folder holds a run with other settings."""
    config, layout = localization.config, localization.layouts[pair.name]
    identity = {name: value for name, value in asdict(config).items() if name not in NOT_IDENTITY}
    identity |= {
        "student": model_identity(pair.student),
        "teacher": model_identity(pair.teacher),
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
    }
    revisions = {model: model_revision(model) for model in (pair.student, pair.teacher)}
    if localization.problems:
        identity["dataset_fingerprint"] = localization.problems.fingerprint
        revisions[localization.dataset] = localization.problems.revision
    open_run(localization.folder(pair), identity, asdict(config), known(revisions), (pair.student, pair.teacher))


def _graded(localization: Localization, pair: ModelPair) -> list[GradedResponse]:
    """The responses of the pair's student, or those of RUN."""
    config, layout = localization.config, localization.layouts[pair.name]
    if localization.run:
        responses = localization.run.responses(config, layout)
        print(f"{len(responses)} responses of {localization.run.folder}")
        return responses
    problems = localization.chosen_problems
    print(f"{pair.student}: responses to {len(problems)} problems of {localization.dataset}")
    return sample_responses(config, pair.student, layout, problems, localization.folder(pair))


def _score(localization: Localization, pair: ModelPair, responses: list[GradedResponse]) -> list[ScoredResponse]:
    """In the order of the problems. scores.jsonl holds those that are done: a killed run continues with them."""
    log = JsonlLog(localization.folder(pair) / "scores.jsonl")
    scored = _restored(log)
    by_key = {(response.problem, response.response): response for response in responses}
    if any(key not in by_key or by_key[key].rollout.y[: len(one.ids)] != one.ids for key, one in scored.items()):
        raise UserError(
            f"{log.path}: it has scores of other responses than there are now; delete it or use another OUTPUT_DIR"
        )
    missing = [response for key, response in by_key.items() if key not in scored]
    if scored:
        print(f"{pair.name}: {len(scored)} scored responses restored from {log.path}")
    if missing:
        scorer = _open_scorer(localization, pair)
        items = scorer.items(missing)
        if left_out := len(missing) - len(items):
            print(
                f"{pair.name}: {left_out} responses are left out: MAX_TEACHER_TOKENS={scorer.max_teacher_tokens} "
                "leaves them no room, or they hold a token that the teacher does not have"
            )
        total = len(scored) + len(items)
        with Progress(pair.name, initial=len(scored) / max(total, 1)) as bar:
            for batch in scorer.score(items):
                for response in batch:
                    log.append(response.as_line())
                    scored[response.key] = ScoredResponse.from_line(response.as_line())
                bar.show(len(scored) / total, f"{len(scored)}/{total} responses")
    log.close()
    if not scored:
        raise UserError(f"{pair.name}: no response could be scored; raise MAX_TEACHER_TOKENS")
    return [scored[key] for key in sorted(scored)]


def _restored(log: JsonlLog) -> dict[tuple[int, int], ScoredResponse]:
    scored = {}
    for number, line in enumerate(log.entries, start=1):
        try:
            response = ScoredResponse.from_line(line)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{log.path}, line {number}: expected a scored response, found {line!r:.80}; delete that line, "
                "and the response is scored again"
            ) from error
        scored[response.key] = response
    return scored


def _open_scorer(localization: Localization, pair: ModelPair) -> PairScorer:
    config, layout = localization.config, localization.layouts[pair.name]
    print(f"{pair.name}: student {pair.student}, teacher {pair.teacher}")
    max_teacher_tokens = within_context("MAX_TEACHER_TOKENS", config.max_teacher_tokens, pair.teacher)
    student, teacher = open_models(pair.student, pair.teacher, config.packing, max_teacher_tokens)
    return PairScorer(
        student=student,
        teacher=teacher,
        layout=layout,
        pad_id=padding_id(pair.student, layout.tokenizer, layout.eot_ids[0]),
        max_teacher_tokens=max_teacher_tokens,
        tokens_per_micro_batch=config.tokens_per_micro_batch,
        alternatives=config.alternatives,
        compare=config.compare_phrases,
        variants=Variants.open(layout, config.neutral_phrase),
        teacher_vocab=vocab_size(pair.teacher),
    )


def _write(
    localization: Localization, finished: list[dict[str, Any]], scored: dict[str, list[ScoredResponse]]
) -> None:
    """With the pairs that are finished so far."""
    folder = localization.output_dir
    content = {
        "dataset": localization.dataset,
        "neutral_phrase": localization.config.neutral_phrase,
        "unfinished": [pair.name for pair in localization.pairs if pair.name not in scored],
        "pairs": finished,
    }
    write_json(folder / "localization.json", content)
    tokenizers = {name: layout.tokenizer for name, layout in localization.layouts.items()}
    write_page(folder / "localization.html", content, scored, tokenizers, localization.config.examples)
