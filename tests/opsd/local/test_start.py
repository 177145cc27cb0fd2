"""The start of the local engine does no work twice: models are loaded, and asked for their attention, once."""

import pytest
from transformers import AutoModelForCausalLM

from opsd.local.engine import LocalEngine
from opsd.localize.models import open_models
from srt.common import packed_attention
from srt.common.packed_attention import PACKED, AttentionChoice
from tests.opsd.helpers.problems import PROBLEMS
from tests.srt.helpers.attention_listings import counted_listings
from tests.srt.helpers.varlen_on_cpu import VarlenOnCpu


@pytest.fixture
def started(monkeypatch):
    """started(): the folders that weights were read from, and how often a model listed its attention calls, since
    it was last called."""
    loaded: list[str] = []
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def load(path, *arguments, **settings):
        loaded.append(str(path).rsplit("/", 1)[-1])
        return from_pretrained(path, *arguments, **settings)

    def since_last_call():
        result = loaded.copy(), len(listings)
        loaded.clear()
        listings.clear()
        return result

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with counted_listings() as listings:
        yield since_last_call


@pytest.fixture(params=["1", "auto"])
def packing(request, monkeypatch):
    """PACKING; `auto` as on a GPU, with the kernel on the CPU."""
    if request.param == "auto":
        on_gpu = AttentionChoice(PACKED, True, "torch's variable-length flash kernel")
        monkeypatch.setattr("opsd.packing.choose_attention", lambda *_, **__: on_gpu)
        monkeypatch.setattr(packed_attention, "varlen_attn", VarlenOnCpu())
    return request.param


def test_the_student_is_loaded_once_and_each_model_lists_its_attention_once(
    open_run, tiny_checkpoint, grader, packing, started
):
    opened = open_run(tiny_checkpoint, PROBLEMS, packing=packing)
    assert opened.engine.student.packed
    assert started() == ([tiny_checkpoint.name] * 2, 2)  # student and teacher
    opened.step(0)
    opened.engine.save_checkpoint(1)
    resumed = LocalEngine(opened.run, grader)
    assert resumed.student.packed and resumed.start_step == 1
    assert started() == (["student", tiny_checkpoint.name], 2)


def test_models_whose_own_precision_is_not_the_one_to_try_them_in_are_loaded_for_that(
    open_run, tiny_checkpoint, other_checkpoint, packing, started
):
    """Frozen models, which are bf16 on a GPU: another teacher, and the weights beneath an adapter."""
    student, teacher = tiny_checkpoint.name, other_checkpoint.name
    assert open_run(tiny_checkpoint, PROBLEMS, packing=packing, teacher=other_checkpoint).engine.student.packed
    assert started() == ([student, teacher, teacher], 3)
    assert open_run(tiny_checkpoint, PROBLEMS, packing=packing, lora_rank=2, folder="lora").engine.student.packed
    assert started() == ([student, student], 2)


def test_localize_starts_alike(tiny_checkpoint, other_checkpoint, packing, started):
    student, teacher = tiny_checkpoint.name, other_checkpoint.name
    assert all(model.packed for model in open_models(str(tiny_checkpoint), str(other_checkpoint), packing, 100))
    assert started() == ([student, teacher, teacher], 3)
    assert all(model.packed for model in open_models(str(tiny_checkpoint), str(tiny_checkpoint), packing, 100))
    assert started() == ([student], 1)
