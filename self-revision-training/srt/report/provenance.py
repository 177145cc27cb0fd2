"""What made a run, on the page: models, data, settings, seeds, commits, phrases and packages."""

from collections.abc import Iterator
from typing import Any

from srt.contract.paths import DEFAULT_DATASETS
from srt.report.data import RunData
from srt.report.html import Html, element, join


def made_by(run: RunData) -> list[Html]:
    """The parts that have a run.json, then the phrases and packages; empty when there is no run.json."""
    runs = _runs(run)
    if not runs:
        return []
    return [element("dl", *_parts(runs), class_="made"), *_phrases(runs), *_packages(runs)]


def _runs(run: RunData) -> dict[str, dict[str, Any]]:
    """The run.json of every part that has one, by the part's name."""
    parts = {"collection": run.collection, "SFT": run.srt, "self-distillation": run.distillation}
    parts |= {f"evaluation, {stage.name}": stage.run for stage in run.stages}
    return {name: part for name, part in parts.items() if part}


def _parts(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    """Parts that differ in nothing but the model, such as the evaluations, stand together."""
    users: dict[tuple[str, ...], list[Html]] = {}
    for name, made in runs.items():
        config = made["config"]
        model = config.get("model_path") or config.get("base_model") or config.get("student_model")
        facts = (_data(config), _settings(config), f"seed {config['seed']}", f"git {_short(made['git_commit'])}")
        users.setdefault(facts, []).append(element("dt", element("strong", name), f": {model}"))
    for facts, parts in users.items():
        yield join(*parts, element("dd", "; ".join(facts)))


def _data(config: dict[str, Any]) -> str:
    if "base_model" in config:
        return f"stage files {config['data_prefix']}" if config["data_prefix"] else "the stage files of its model"
    default = DEFAULT_DATASETS[config["mode"]][0]
    return config.get("dataset") or config.get("train_dataset") or default


def _settings(config: dict[str, Any]) -> str:
    """The settings that matter most, by the names of their knobs."""
    names = (
        "num_responses",
        "num_revisions",
        "revise_correct",
        "num_samples",
        "epochs_stage1",
        "epochs_stage2",
        "lr_stage1",
        "lr_stage2",
        "kl_type",
        "topk",
        "teacher_sync_steps",
        "num_prompts_per_step",
        "lr",
        "lr_schedule",
        "temperature",
        "top_p",
        "max_tokens",
        "max_total_sequence_length",
    )
    return ", ".join(f"{name}={config[name]}" for name in names if name in config)


def _short(commit: str) -> str:
    sha, plus, changes = commit.partition("+")
    return sha[:12] + plus + changes


def _phrases(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    """A line for each set of control phrases; more than one is worth a look."""
    users: dict[tuple[str, str, str], list[str]] = {}
    for name, made in runs.items():
        if phrases := made["identity"].get("control_phrases"):
            if isinstance(phrases, dict):
                users.setdefault((phrases["name"], phrases["0"], phrases["1"]), []).append(name)
    for (set_name, wrong, right), names in users.items():
        where = "" if len(users) == 1 else f" ({', '.join(names)})"
        yield element(
            "p",
            f"Control phrases, set {set_name}{where}: after a wrong response ",
            element("em", wrong),
            " and after a right one ",
            element("em", right),
        )


def _packages(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    users: dict[str, list[str]] = {}
    for name, made in runs.items():
        versions = ", ".join(f"{package} {version}" for package, version in made["packages"].items())
        users.setdefault(versions, []).append(name)
    for versions, names in users.items():
        where = "" if len(users) == 1 else f" ({', '.join(names)})"
        yield element("p", f"Packages{where}: {versions}", class_="soft")
