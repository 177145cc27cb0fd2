"""The files of a run, as its steps write them, and the page of its report."""

import json
from html.parser import HTMLParser
from pathlib import Path

from opsd.run_log import MetricsLog
from srt.common.files import JsonlLog, read_json, write_json
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import close_run, open_run
from srt.contract.records import Problem, Response, Revision, as_tuple
from srt.evaluation.metrics import evaluation_metrics
from srt.evaluation.samples import EvaluatedSample, group_by_problem
from srt.report.run import report

PHRASES = PHRASE_SETS["qwen"]


def response(problem: int, index: int, correct: bool, text: str = "\\boxed{7}", tokens: int = 5) -> Response:
    return Response(
        problem,
        index,
        f"p{problem}",
        "",
        "3 + 4",
        "7",
        text,
        "",
        tokens,
        correct,
        "7" if correct else "8",
        "",
        "stop",
        0,
    )


def revision(problem: int, index: int, r: int, correct: bool, text: str = "\\boxed{7}") -> Revision:
    return Revision(problem, index, 0, PHRASES.text(r), text, "", 5, correct, "7", "", "stop", 0)


def write_evaluation(folder: Path, correct: int, k: int = 8, **settings) -> dict:
    """k responses to each of two problems: all correct for the first, `correct` of them for the second."""
    responses = [response(p, i, p == 0 or i < correct, tokens=4 + 2 * p) for p in range(2) for i in range(k)]
    revisions = [revision(r.problem_idx, r.response_idx, r.r, r.response_idx % 2 == 0) for r in responses]
    config = {"model_path": f"models/{folder.name}", "dataset": "held.jsonl", "mode": "math", "num_samples": k}
    config |= {"seed": 3, "temperature": 1.0} | settings
    identity = {"dataset_fingerprint": "aa", "num_samples": k, "control_phrases": PHRASES.as_dict()} | settings
    open_run(folder, identity, config)
    result = {"model": config["model_path"], "dataset": "held.jsonl"}
    samples = [EvaluatedSample.of(record) for record in (*responses, *revisions)]
    grouped = group_by_problem(samples, [Problem(f"p{p}", "3 + 4", "7") for p in range(2)])
    result |= evaluation_metrics(grouped, k, "math", seed=0) | {"set_aside": 0}
    write_json(folder / "evaluation.json", result)
    close_run(folder, result)
    return result


def write_collection(folder: Path, y_init: str = "\\boxed{8}") -> None:
    config = {"model_path": "models/base", "dataset": "train.jsonl", "mode": "math", "seed": 3}
    config |= {"revise_correct": False, "right_share": None}
    open_run(folder, {"model": "models/base", "control_phrases": PHRASES.as_dict()}, config)
    tuples = [as_tuple(response(i, 0, False, y_init), revision(i, 0, 0, True)) for i in range(5)]
    write_json(folder / "d_revision.json", tuples)
    results = {
        "responses": 20,
        "revisions": 10,
        "kept": 5,
        "set_aside": 1,
        "tokens": 1234,
        "first_try_accuracy": 0.475,
        "truncated_share": 0.0,
        "wrong_to_right": 0.5,
        "right_to_right": None,
        "seconds": 1.0,
        "tuples": 5,
    }
    close_run(folder, results)


def write_sft(folder: Path) -> None:
    config = {"base_model": "models/base", "data_prefix": None, "seed": 3, "lr_stage1": 1e-4}
    open_run(folder, {"base_model": "models/base"}, config)
    for stage in (1, 2):
        log = [{"step": step, "loss": 1 / step, "epoch": step / 4} for step in range(1, 30)]
        write_json(folder / f"stage{stage}" / "training_log.json", [*log, {"step": 29, "train_loss": 0.2}])


def step_metrics(step: int, rewards: tuple[int, ...] = (0, 1)) -> dict:
    metrics = {"reward": 0.5 + step / 100, "response_tokens": 40.0 - step, "truncated": 0.0, "entropy": 0.1}
    metrics |= {"teacher_entropy": 0.1, "logprob_gap": 1e-6, "grad_norm": 1.0, "lr": 1e-4}
    metrics["seconds"] = {"update": 0.1}
    return metrics | {f"{name}_r{r}": 0.1 for name in ("kl", "top1_agreement") for r in rewards}


def write_distillation(folder: Path, steps: int = 30, token: str = "8") -> None:
    config = {"student_model": "models/srt", "train_dataset": "train.jsonl", "mode": "math", "seed": 3}
    open_run(folder, {"control_phrases": PHRASES.as_dict()}, config | {"val_num_samples": 4})
    log = MetricsLog(folder, 0, "none")
    for step in range(steps):
        validation = {"val_avg_at_k": 0.6, "val_response_tokens": 30.0} if step % 10 == 9 else {}
        log.write(step, step_metrics(step) | validation)
    log.close()
    samples = JsonlLog(folder / "samples.jsonl")
    for r in (0, 1):
        samples.append(sample(r, ["3", "\n", token], [0.001, 0.0, 2.0 if r == 0 else 0.001]))
    samples.close()


def sample(r: int, tokens: list[str], kl: list[float], step: int = 0) -> dict:
    return {"step": step, "id": f"s{r}", "x": "3 + 4", "r": r, "p_r": PHRASES.text(r), "tokens": tokens, "kl": kl}


def write_run(folder: Path) -> None:
    for index, key in enumerate(("base", "stage1", "srt", "sd_zero")):
        write_evaluation(folder / "evaluation" / key, correct=2 * index)
    write_collection(folder / "collection")
    write_sft(folder / "srt")
    write_distillation(folder / "distillation")


def make_report(run: Path, *config: str) -> tuple[dict, str]:
    parts = [f"{part}={run / part}" for part in ("evaluation", "collection", "srt", "distillation")]
    report([*parts, f"output_dir={run / 'out'}", *config])
    return read_json(run / "out" / "summary.json"), (run / "out" / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The live elements of a page with their attributes, its headings, its text, and its scripts.

    `texts`: what is shown, from the page itself and from the data that its scripts show. `data`: JSON by name.
    """

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text, self.headings, self.code, self.data = "", [], [], {}
        self._tag, self._name = "", None
        self.feed(html)
        self.texts = self.text + json.dumps(self.data, ensure_ascii=False)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._tag, self._name = tag, dict(attributes).get("id")

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag == "script":
            if self._name:
                self.data[self._name.removeprefix("data-")] = json.loads(data)
            else:
                self.code.append(data)
        elif self._tag != "style":
            self.text += data
        if self._tag in ("h2", "h3", "figcaption"):
            self.headings.append(data)

    @property
    def charts(self) -> dict[str, dict]:
        return self.data["charts"]["charts"]

    def points(self, chart: str, label: str) -> list[tuple[float, float]]:
        """Those of one curve."""
        (curve,) = [series for series in self.charts[chart]["series"] if series["label"] == label]
        return list(zip(curve["x"], curve["y"], strict=True))
