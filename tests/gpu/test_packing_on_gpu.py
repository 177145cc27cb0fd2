"""Phase 2 with packed sequences in bf16, by torch's variable-length kernel, against padded ones."""

import inspect

import pytest
import torch

from opsd.config import RunConfig
from opsd.local.optimizer_step import OptimizerStep
from opsd.local.student import Student
from opsd.local.teacher import open_teacher
from opsd.packing import choose_packing
from opsd.pairs import SequencePair, build_pair
from opsd.rollouts import Rollout
from srt.common import packed_attention
from srt.config import load_config
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.records import Problem
from tests.families.models import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X = "x = 1 [A] + 1"
SIZES = {"hidden_size": 256, "head_dim": 64}
# With a sliding window of 5 tokens; with capped scores, which the kernel does not know.
FAMILIES = {"qwen3": True, "mistral": True, "gemma2": False}


@pytest.fixture(scope="module")
def layout(tiny_checkpoint):
    return layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None))


@pytest.fixture(scope="module")
def pairs(layout):
    text = "A 1 + 1 = 2\nB 2 * 3 = 6\n" * 12
    result = []
    for length in (1, 3, 7, 20, 63, 64, 65, 130):
        y = layout.tokenizer.encode(text)[:length]
        rollout = Rollout(Problem("p", X, "7"), layout.chat(X), y, [-1.0] * length, "length", 0)
        result.append(build_pair(rollout, layout, 1000))
    return result


@pytest.fixture(params=FAMILIES)
def models(request, layout, tmp_path):
    """The folders of student and teacher."""
    folders = []
    for seed, name in enumerate(("student", "teacher")):
        model = tiny(request.param, vocab_size=len(layout.tokenizer), **SIZES)[1]
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.data.normal_(0, 0.05, generator=generator)
            parameter.data = parameter.data.bfloat16().float()  # student and teacher load the same numbers
        model.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    return folders


def open_step(student, teacher, packed, **settings) -> OptimizerStep:
    settings = {
        "student_model": student,
        "teacher_model": teacher,
        "max_grad_norm": 0,
        "tokens_per_micro_batch": 300,
        "warmup_steps": 0,
        "lr": 1e-60,
        "packing": int(packed),
    } | settings
    config = load_config(RunConfig, "distill", [f"{name}={value}" for name, value in settings.items()])
    opened = Student(config, None, 1000)
    assert opened.packed == packed
    return OptimizerStep(config, opened, open_teacher(config, opened, None), 0, 10, None)


def gradients_and_kl(step, pairs):
    gradients = {}

    def keep(*_):
        gradients.update({name: p.grad.float().cpu() for name, p in step.student.model.named_parameters()})

    step.optimizer.register_step_pre_hook(keep)
    result = step.run(pairs)
    by_pair = {}
    for batch, output in result.scored:
        by_pair |= zip(map(id, batch), output.token_kl.split([len(pair.targets) for pair in batch]), strict=True)
    return gradients, torch.cat([by_pair[id(pair)] for pair in pairs])


@pytest.mark.parametrize("gradient_checkpointing", [0, 1])
def test_a_packed_update_in_bf16_is_the_padded_one(models, pairs, monkeypatch, request, gradient_checkpointing):
    kernel, calls = packed_attention.varlen_attn, []
    assert kernel is not None, "torch has no variable-length attention"

    def counted(*arguments, **settings):
        calls.append(arguments[0].dtype)
        return kernel(*arguments, **settings)

    counted.__signature__ = inspect.signature(kernel)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(packed_attention, "varlen_attn", counted)
    assert choose_packing(models, "auto", 1000)
    calls.clear()  # of the kernel's trial
    found = {}
    for packed in (False, True):
        assert not calls or packed
        step = open_step(*models, packed, gradient_checkpointing=gradient_checkpointing)
        found[packed] = gradients_and_kl(step, pairs)
    family = request.node.callspec.params["models"]
    assert set(calls) == ({torch.bfloat16} if FAMILIES[family] else set())
    (gradients, kl), (expected_gradients, expected_kl) = found[True], found[False]
    assert expected_kl.mean() > 0.01
    assert float((kl - expected_kl).norm() / expected_kl.norm()) < 0.03
    for name, expected in expected_gradients.items():
        assert float((gradients[name] - expected).norm() / expected.norm()) < 0.05, name


def test_a_model_with_heads_that_the_kernel_does_not_take_is_padded_with_a_line(layout, tmp_path, capsys):
    for width in (256, 512):
        tiny("qwen3", vocab_size=len(layout.tokenizer), head_dim=width)[1].save_pretrained(tmp_path / "model")
        assert choose_packing([str(tmp_path / "model")], "auto", 1000) == (width == 256)
    assert (
        "because torch's variable-length kernel refuses the attention of Qwen3ForCausalLM"
        in capsys.readouterr().out
    )


def test_equal_weights_have_no_kl_where_both_read_the_same(models, pairs):
    same = [SequencePair(pair.rollout, pair.student, pair.student) for pair in pairs]
    scored = open_step(models[0], models[0], True).score(same)
    kl = torch.cat([output.token_kl for _, output in scored])
    assert float(kl.mean()) < 2e-3  # preflight's limit
