"""What is said when a vLLM engine does not start, how deeply it sleeps, and how a request is sampled."""

import os

import pydantic
import pytest
import torch
from transformers import BloomConfig, FalconConfig, LlamaConfig, MptConfig, Qwen3Config

from srt.sampling import vllm_common
from srt.sampling.base import SampleRequest, SamplingConfig
from srt.sampling.vllm_common import (
    RUNNER,
    WITHOUT_VLLM,
    cannot_sample,
    did_not_start,
    sampling_params,
    sleep_level,
    with_second_runner,
)


class ModelConfig(pydantic.BaseModel):
    """Checked like vLLM's: by type, and by a validator that raises."""

    max_model_len: int
    dtype: int = 0

    @pydantic.model_validator(mode="after")
    def check(self):
        raise ValueError("max_model_len (100) is greater than the derived\nmax_model_len (50).")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_model_len": 100}, "max_model_len (100) is greater than the derived max_model_len (50)."),
        (
            {"max_model_len": "x", "dtype": "y"},
            "max_model_len: Input should be a valid integer, unable to parse string as an integer; dtype: Input",
        ),
    ],
)
def test_configuration_errors_are_said_whole(options, said):
    with pytest.raises(ValueError) as caught:
        ModelConfig(**options)
    message = str(did_not_start("some/model", caught.value))
    assert f"vLLM did not start on some/model: {said}" in message
    assert "validation error" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError("no memory\ndetails"), "no memory"), (AssertionError(), "AssertionError")]
)
def test_other_errors_are_said_by_their_first_line(error, said):
    assert f"some/model: {said} (a smaller MAX_TOKENS" in str(did_not_start("some/model", error))


def test_a_model_that_vllm_has_no_code_for_is_named_without_all_others():
    reason = "Model architectures ['X'] are not supported for now."
    said = str(did_not_start("some/model", ValueError(f"{reason} Supported architectures: ['A', 'B']")))
    assert said == f"vLLM did not start on some/model: {reason} ({WITHOUT_VLLM})"


def test_an_engine_that_fails_in_its_first_step_is_one_sentence_unless_memory_ran_out():
    said = str(cannot_sample("some/model", KeyError("bias")))
    assert "some/model and cannot compute it: KeyError: 'bias' (SAMPLER=transformers" in said
    for error in (MemoryError("host"), torch.OutOfMemoryError("GPU")):
        assert cannot_sample("some/model", error) is error


@pytest.mark.parametrize("config", [Qwen3Config(), LlamaConfig(), FalconConfig(alibi=False)])
def test_a_sleeping_engine_keeps_no_copy_of_its_weights(config):
    assert sleep_level(config) == 2


@pytest.mark.parametrize(
    "config", [BloomConfig(), FalconConfig(alibi=True), MptConfig(attn_config={"alibi": True})]
)
def test_except_where_waking_up_would_not_bring_everything_back(config):
    assert sleep_level(config) == 1


@pytest.mark.vllm
def test_a_requests_own_sampling_comes_before_the_samplers():
    own = SamplingConfig(0.6, 0.8, (7,))
    for sampling, expected in ((None, (1.0, 1.0, [2])), (own, (0.6, 0.8, [7]))):
        params = sampling_params(
            SamplingConfig(1.0, 1.0, (2,)), SampleRequest([1], 5, 9, sampling=sampling), False
        )
        assert (params.temperature, params.top_p, params.stop_token_ids) == expected
        assert (params.seed, params.max_tokens) == (5, 9)


@pytest.mark.parametrize(
    ("on_gpu", "of_user", "unsupported", "tried"),
    [
        (True, False, False, ["1"]),
        (True, False, True, ["1", "0"]),  # the second time with the first one
        (True, True, False, [None]),
        (False, False, False, [None]),
    ],
)
def test_an_engine_on_a_gpu_has_the_second_model_runner(monkeypatch, capsys, on_gpu, of_user, unsupported, tried):
    monkeypatch.setenv(RUNNER, "")
    monkeypatch.delenv(RUNNER)
    monkeypatch.setattr(vllm_common, "_runner_of_user", of_user)
    found = []

    def start():
        found.append(os.environ.get(RUNNER))
        if unsupported and found[-1] == "1":
            raise ValueError(f"{RUNNER} does not yet support: hybrid/mamba models")
        return "engine"

    assert with_second_runner(start, on_gpu) == "engine"
    assert found == tried
    assert ("first model runner, because VLLM_USE_V2" in capsys.readouterr().out) == unsupported


def test_other_errors_of_a_start_are_not_about_the_runner(monkeypatch):
    monkeypatch.setenv(RUNNER, "")
    monkeypatch.setattr(vllm_common, "_runner_of_user", False)

    def start():
        raise ValueError("max_model_len (100) is greater than the derived max_model_len (50).")

    with pytest.raises(ValueError, match="max_model_len"):
        with_second_runner(start, on_gpu=True)
