"""PACKING=1 in the local engine: the numbers of the padded path, with every option that an update has."""

import pytest
import torch

from opsd.config import DistillConfig
from opsd.local.engine import LocalEngine
from opsd.localize.config import LocalizeConfig
from opsd.packing import choose_packing
from opsd.pairs import build_pair
from opsd.replay import Replay
from srt.common import packed_attention
from srt.common.models import load_model_config
from srt.common.packed_attention import PACKED
from srt.config import load_config
from srt.contract.layout import TokenSequence
from tests.families.models import tiny
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.states import equal
from tests.srt.helpers.varlen_on_cpu import VarlenOnCpu

SETTINGS = {"lr": 1e-3, "max_grad_norm": 1, "tokens_per_micro_batch": 150}
OTHER_TEACHER = {
    "checkpointing, clipped": {"gradient_checkpointing": 1, "kl_clip": 0.02},
    "reward and replay": {"reward_weight": 0.5, "srt_replay": 0.4, "srt_replay_weight": 0.5},
    "offload, few entries": {"offload": 1, "kl_grad_eps": 1e-4, "tokens_per_micro_batch": 10_000},
}
CASES = OTHER_TEACHER | {"adapter": {"lora_rank": 2, "gradient_checkpointing": 1}}


@pytest.fixture
def pairs(five_pairs):
    return five_pairs


def replayed(layout) -> Replay:
    texts = ("A 1 + 1 = 2\n\\boxed{2}", "7", "A 2 * 3 = 6\nB 6 - 1 = 5\n\\boxed{5}")
    ids = [layout.chat("x = 3 [A] + 1") + layout.tokenizer.encode(text) for text in texts]
    return Replay([TokenSequence(i, start=len(i) - 4) for i in ids], 2, seed=0)


def three_updates(opened, pairs, layout):
    """Two updates, a synchronization of the teacher, a third update: KL by pair, norms, terms; weights after."""
    step = opened.engine.optimizer_step
    if opened.run.config.srt_replay:
        step.replay = replayed(layout)
    found = []
    for number in range(3):
        if number == 2:
            opened.engine.sync_teacher()
        result = step.run(pairs)
        by_pair = {}
        for batch, output in result.scored:
            parts = output.token_kl.split([len(pair.targets) for pair in batch])
            by_pair |= dict(zip(map(id, batch), parts, strict=True))
        found.append((torch.cat([by_pair[id(pair)] for pair in pairs]), result.grad_norm, result.terms))
    opened.engine.close()
    return found, dict(opened.engine.student.named_weights()), [len(batch) for batch, _ in result.scored]


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_padded_path(open_run, tiny_checkpoint, other_checkpoint, pairs, layout, case):
    settings = SETTINGS | CASES[case] | {"teacher_sync": "steps", "teacher_sync_steps": 2}
    if case in OTHER_TEACHER:
        settings["teacher"] = other_checkpoint
    padded = open_run(tiny_checkpoint, PROBLEMS, **settings)
    packed = open_run(tiny_checkpoint, PROBLEMS, **settings, packing=1, folder="packed")
    assert packed.engine.student.packed and not padded.engine.student.packed
    rows = rows_of(packed.engine)
    expected, expected_weights, _ = three_updates(padded, pairs, layout)
    actual, weights, _ = three_updates(packed, pairs, layout)
    assert rows and set(rows) == {1}  # sequences beside each other, never below each other
    for (kl, norm, terms), (expected_kl, expected_norm, expected_terms) in zip(actual, expected, strict=True):
        assert expected_kl.max() > 0.01 or case == "adapter"
        torch.testing.assert_close(kl, expected_kl, rtol=1e-3, atol=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-3)
        assert terms == pytest.approx(expected_terms, rel=1e-4)
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def rows_of(engine) -> list[int]:
    """The number of rows of each pass of student and teacher from now on."""
    rows: list[int] = []
    for model in {id(m): m for m in (engine.student.model, engine.teacher.model)}.values():
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    return rows


def test_micro_batches_are_filled_with_tokens_instead_of_padding(open_run, tiny_checkpoint, pairs, layout):
    limit = sum(len(pair.teacher.ids) for pair in pairs)
    batches = {}
    for packing in (0, 1):
        opened = open_run(tiny_checkpoint, PROBLEMS, packing=packing, tokens_per_micro_batch=limit, lr=1e-60)
        batches[packing] = three_updates(opened, pairs, layout)[2]
    assert sum(batches[0]) == sum(batches[1]) == len(pairs)
    assert len(batches[1]) == 1 < len(batches[0])


def test_equal_weights_have_a_kl_of_0_where_both_read_the_same(open_run, tiny_checkpoint, pairs):
    same = [type(pair)(pair.rollout, pair.student, pair.student) for pair in pairs]
    opened = open_run(tiny_checkpoint, PROBLEMS, packing=1, tokens_per_micro_batch=100)
    scored = opened.engine.score(same)
    assert len(scored) > 1
    assert max(float(output.token_kl.abs().max()) for _, output in scored) == 0


def test_between_updates_the_student_has_its_own_attention_and_samples(open_run, coin_checkpoint, grader):
    opened = open_run(coin_checkpoint, PROBLEMS, packing=1, max_total_sequence_length=24, lr=1e-3)
    for step in range(2):
        assert opened.engine.student.model.config._attn_implementation == "sdpa"
        assert opened.step(step)["logprob_gap"] <= 1e-4
    opened.engine.sync_teacher()
    opened.engine.save_checkpoint(2)
    resumed = LocalEngine(opened.run, grader)  # with a teacher that was saved with its attention
    assert resumed.start_step == 2 and resumed.student.packed
    assert equal(resumed.teacher.model.state_dict(), opened.engine.teacher.model.state_dict())
    for file in opened.run.output_dir.rglob("config.json"):
        assert PACKED not in file.read_text()
    resumed.close()


def test_a_model_that_mixes_packed_sequences_is_padded_with_a_line(layout, tmp_path, capsys, tiny_checkpoint):
    for family in ("mamba", "qwen3"):
        tiny(family, vocab_size=len(layout.tokenizer))[1].save_pretrained(tmp_path / family)
    models = [str(tmp_path / "qwen3"), str(tmp_path / "mamba")]
    assert load_model_config(models[1]).model_type == "mamba"
    assert choose_packing(models[:1], "1", 100)
    assert "packing: the sequences of a forward pass share one row; attention: SDPA" in capsys.readouterr().out
    assert not choose_packing(models, "1", 100)  # also where only the teacher does not allow it
    assert "padding instead of packing, because layers of MambaForCausalLM mix packed" in capsys.readouterr().out


def test_without_a_gpu_packing_is_not_chosen_and_no_model_is_loaded_for_it(capsys):
    assert not choose_packing(["no/model"], "0", 100)
    assert capsys.readouterr().out == ""
    assert not choose_packing(["no/model"], "auto", 100)
    assert capsys.readouterr().out == "padding instead of packing, because there is no GPU (PACKING=auto)\n"


def test_on_a_gpu_packing_is_the_default_of_both_scripts_where_the_kernel_can(
    tiny_checkpoint, other_checkpoint, monkeypatch, capsys
):
    """Only what is asked whether there is a GPU says so: the kernel is tried on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("opsd.packing.default_device", lambda: torch.device("cpu"))
    models = [str(tiny_checkpoint), str(other_checkpoint)]
    model = f"student_model={models[0]}"
    for script, config in (("distill", DistillConfig), ("localize", LocalizeConfig)):
        default = load_config(config, script, [model]).packing
        for widest, packed in ((256, True), (8, False)):
            monkeypatch.setattr(packed_attention, "varlen_attn", VarlenOnCpu(widest))
            capsys.readouterr()
            assert choose_packing(models, default, 100) == packed
            said = capsys.readouterr().out
            assert said.endswith(
                "attention: torch's variable-length flash kernel (PACKING=auto)\n"
                if packed
                else "(PACKING=auto)\n"
            )
            assert said.startswith(
                "packing: the sequences"
                if packed
                else "padding instead of packing, because torch's variable-length"
            )
    monkeypatch.setattr(packed_attention, "varlen_attn", None)
    assert not choose_packing(["no/model"], default, 100)
    assert "because this torch has no variable-length attention (PACKING=auto)" in capsys.readouterr().out


def test_a_shortened_y_is_packed_too(open_run, tiny_checkpoint, make_rollout, layout):
    rollouts = [
        make_rollout("A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}"),
        make_rollout("7"),
        make_rollout("\\boxed{3}"),
    ]
    pairs = [build_pair(rollout, layout, 40) for rollout in rollouts]
    assert len(pairs[0].targets) < len(pairs[0].rollout.y)
    kl = []
    for packing in (0, 1):
        opened = open_run(tiny_checkpoint, PROBLEMS, packing=packing, tokens_per_micro_batch=10_000)
        ((batch, output),) = opened.engine.score(pairs)
        parts = dict(zip(map(id, batch), output.token_kl.split([len(p.targets) for p in batch]), strict=True))
        kl.append(torch.cat([parts[id(pair)] for pair in pairs]))
    torch.testing.assert_close(kl[1], kl[0], rtol=1e-4, atol=1e-6)
