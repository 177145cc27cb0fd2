"""Phase 2's sampler with the real vLLM engine: it samples from the student, also when its weights have changed.

The reference is the model's own logits in float64, from transformers with plain attention.
"""

import re
from contextlib import closing
from pathlib import Path

import pytest
import torch

from opsd.config import DistillConfig, RunConfig
from opsd.local.student import Student
from opsd.preflight import preflight
from srt.common.errors import UserError
from srt.config import load_config
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_inprocess import VllmSampler
from tests.families.models import naive_model
from tests.families.vllm_models import (
    INEXACT,
    OTHER_LOGITS,
    REFUSED,
    SUPPORTED,
    TOKENIZER,
    change,
    parameters,
    save_for_vllm,
)
from tests.opsd.conftest import grader, layout, make_config, make_run, open_run  # noqa: F401 - fixtures
from tests.opsd.helpers.problems import PROBLEMS

pytestmark = pytest.mark.vllm

PAGE = Path(__file__).resolve().parents[2] / "docs/model-families.md"
PROMPTS = [[5, 9, 33], [17, 4, 88, 120, 7, 7, 64, 31, 90, 3], [101, 3, 56, 72, 11, 12]]  # some exceed a window
NEW_TOKENS = 12


@pytest.fixture(autouse=True)
def models_are_inspected_here(monkeypatch):
    """vLLM imports its code for a model in another process first, which takes longer than the test."""
    monkeypatch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda call: call())


@pytest.fixture
def open_sampler():
    """open_sampler(folder) is the sampler of Phase 2 for a checkpoint."""
    samplers = []

    def open_sampler(folder) -> VllmSampler:
        config = SamplingConfig(0.7, 1.0, (TOKENIZER.eos_token_id,))
        samplers.append(VllmSampler(str(folder), config, max_model_len=64, max_batch=4, can_sleep=True))
        return samplers[-1]

    yield open_sampler
    for sampler in samplers:
        sampler.close()


def new_student(folder) -> Student:
    knobs = [f"student_model={folder}", "gradient_checkpointing=0"]
    config = load_config(DistillConfig, "distill", knobs)
    return Student(RunConfig(**(vars(config) | {"teacher_model": str(folder)})), None)


@torch.no_grad()
def gaps(sampler, model) -> torch.Tensor:
    """How far each sampled token's log-prob is from that of `model`."""
    requests = [SampleRequest(prompt, seed, NEW_TOKENS) for seed, prompt in enumerate(PROMPTS)]
    found, expected = [], []
    for request, sample in zip(requests, sample_all(sampler, requests), strict=True):
        logits = model(input_ids=torch.tensor([request.prompt_ids + sample.token_ids]), use_cache=False).logits[0]
        log_probs = logits[len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        expected.append(log_probs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0])
        found.extend(sample.logprobs)
    assert sum(found) < -0.3 * len(found)  # a model that is sure of its tokens would agree with any other one
    return (torch.tensor(found, dtype=torch.float64) - torch.cat(expected)).abs()


@pytest.mark.parametrize("family", parameters(SUPPORTED))
def test_samples_are_those_of_the_student_whose_weights_change(family, open_sampler, tmp_path):
    folder = save_for_vllm(family, tmp_path / family)
    student = new_student(folder)
    ids = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        logits = student.model(input_ids=ids).logits
    sampler = open_sampler(folder)
    reference = naive_model(folder)
    tolerance = INEXACT.get(family, 2e-4)
    assert gaps(sampler, reference).max() < tolerance
    with torch.no_grad():  # of the same class as what vLLM may run
        torch.testing.assert_close(student.model(input_ids=ids).logits, logits, rtol=0, atol=0)
    for seed in (1, 2):
        change(student.model, seed)
        reference.load_state_dict(student.model.state_dict())
        sampler.update_weights(student.named_weights())
        assert gaps(sampler, reference).max() < tolerance
        sampler.sleep()


@pytest.mark.parametrize("family", parameters(REFUSED))
def test_what_vllm_cannot_do_is_one_sentence(family, open_sampler, tmp_path):
    folder = save_for_vllm(family, tmp_path / family)
    with pytest.raises(UserError, match="^vLLM .*SAMPLER=transformers") as refusal:
        sampler = open_sampler(folder)
        sample_all(sampler, [SampleRequest(PROMPTS[0], 0, 2)])
        sampler.update_weights(new_student(folder).named_weights())
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("family", parameters(OTHER_LOGITS))
def test_what_vllm_computes_otherwise_ends_a_run_before_its_first_step(family, open_run, tmp_path):  # noqa: F811
    folder = save_for_vllm(family, tmp_path / family)
    opened = open_run(folder, PROBLEMS, sampler="vllm")
    with closing(opened.engine), pytest.raises(UserError, match="trainer disagree .*SAMPLER=transformers"):
        preflight(opened.run, opened.engine)


def test_the_page_says_what_becomes_of_each_family():
    rows = re.findall(r"^\| .* \| ([\w, -]+) \|$", PAGE.read_text().partition("| with vLLM |")[2], re.MULTILINE)
    expected = (SUPPORTED - INEXACT.keys(), INEXACT, OTHER_LOGITS, REFUSED)
    assert rows[:4] == [", ".join(sorted(families)) for families in expected]
