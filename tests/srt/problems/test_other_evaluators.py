"""docs/other-evaluators.md: the tasks that it shows have the prompt and the data of this repository."""

import re

import pytest
import yaml

from srt.config import load_config
from srt.contract.paths import REPOSITORY
from srt.contract.prompt import MODE_SUFFIXES
from srt.evaluation.config import EvaluateConfig
from srt.problems.named import NAMED_SETS
from srt.verifiers.math.verify import verify_math

PAGE = (REPOSITORY / "docs" / "other-evaluators.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_the_task_of_the_harness_is_aime24_with_our_prompt():
    (block,) = blocks("yaml")
    task = yaml.load(block, Loader)  # noqa: S506
    named = NAMED_SETS["aime24"]
    assert (task["dataset_path"], task["test_split"]) == (named.hub_id, named.split)
    assert task["dataset_kwargs"] == {"revision": named.revision}
    assert task["doc_to_text"] == "{{problem}}\n\n" + MODE_SUFFIXES["math"]


def test_the_task_of_lighteval_is_aime24_with_our_prompt():
    code = blocks("python")[0]
    compile(code, "sd_zero_tasks.py", "exec")
    (suffix,) = re.findall(r"^SUFFIX = (\".*?\")  #", code, re.MULTILINE)
    assert eval(suffix) == MODE_SUFFIXES["math"]
    named = NAMED_SETS["aime24"]
    assert f'hf_repo="{named.hub_id}"' in code and f'hf_revision="{named.revision}"' in code


def test_both_sample_as_evaluation_does():
    config = load_config(EvaluateConfig, "evaluate", [])
    task = yaml.load(blocks("yaml")[0], Loader)["generation_kwargs"]  # noqa: S506
    assert (task["temperature"], task["top_p"]) == (config.temperature, config.top_p)
    assert f"generation_parameters={{temperature:{config.temperature},top_p:{config.top_p}}}" in blocks("bash")[0]


@pytest.mark.parametrize(
    ("response", "score"), [("It is \\boxed{25}.", 1.0), ("\\boxed{26}", 0.0), ("None.", 0.0)]
)
def test_its_verdict_is_ours(response, score):
    names: dict = {}
    exec(blocks("python")[1], names)
    assert names["process_results"]({"answer": "025"}, [response]) == {"exact_match": score}
    assert verify_math(response, "25").correct == bool(score)
