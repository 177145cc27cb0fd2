"""A vocabulary sharded over the processes of a group gives the results of one process, on gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from opsd.kl import KLConfig, LogitTransform, exact_kl
from tests.opsd.helpers.kl_cases import make_case, relative_error, require_grad

# Uneven shards of a vocabulary of 37; the last process of each also holds padding.
SHARDS = {2: (23, 17), 4: (5, 19, 1, 15)}
VALUES = ("token_kl", "student_entropy", "teacher_entropy", "student_logprob", "teacher_logprob")
CONFIGS = [
    KLConfig(),
    KLConfig("forward", temperature=0.7),
    KLConfig("mixed", mixed_weight=0.3),
    KLConfig("jsd", jsd_beta=0.2),
    KLConfig(topk=5),
    KLConfig(topk=5, topk_support="student", topk_tail=False),
    KLConfig("jsd", topk=30),
    KLConfig(clip=1.0),
    KLConfig("jsd", clip=0.3),
]


def whole_case(scale=3.0):
    case = make_case(vocab=40, scale=scale)
    case |= {f"{role}_bias": torch.linspace(-1, 1, 40).double() for role in ("student", "teacher")}
    return case


def sharded(case, sizes, rank):
    start = sum(sizes[:rank])
    mine = slice(start, start + sizes[rank])
    return {name: x[mine] if name.endswith(("head", "bias")) else x for name, x in case.items()}


def outputs(case, **arguments):
    names = ("student_hidden", "student_head", "student_bias")
    case = require_grad(case, names)
    out = exact_kl(**case, targets=torch.arange(13) * 5 % 37, vocab_size=37, **arguments)
    out.loss.backward()
    return out, [case[name].grad for name in names]


def compare_with_one_process(rank, group, config, grad_eps=0.0, tolerance=1e-10, **transforms):
    sizes = SHARDS[dist.get_world_size(group)]
    case = whole_case()
    expected, (hidden, head, bias) = outputs(case, config=config, chunk_tokens=13, **transforms)
    out, actual = outputs(
        sharded(case, sizes, rank), config=config, chunk_tokens=5, group=group, grad_eps=grad_eps, **transforms
    )
    assert relative_error(out.loss, expected.loss) <= tolerance
    for name in VALUES:
        torch.testing.assert_close(getattr(out, name), getattr(expected, name))
    assert torch.equal(out.top1_agreement, expected.top1_agreement)
    mine = sharded({"student_head": head, "student_bias": bias}, sizes, rank)
    pairs = zip(actual, (hidden, mine["student_head"], mine["student_bias"]), strict=True)
    scales = [hidden.norm(), head.norm(), bias.norm()]
    for (x, y), scale in zip(pairs, scales, strict=True):
        assert (x - y).norm() <= tolerance * scale


def bad_shards_are_refused_everywhere(rank, group):
    case = sharded(whole_case(), SHARDS[dist.get_world_size(group)], rank)
    with pytest.raises(ValueError, match="vocab_size is 41, expected 1 to 40: the rows of all shards"):
        exact_kl(**case, vocab_size=41, group=group)
    with pytest.raises(ValueError, match="holds no row of the 3 tokens' heads"):
        exact_kl(**case, vocab_size=3, group=group)
    if rank == 1:
        for name in ("teacher_head", "teacher_bias"):
            case[name] = case[name][:-1]
    with pytest.raises(ValueError, match="in process 1 of the group, expected the"):
        exact_kl(**case, group=group)


def process(rank, processes, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    group = dist.group.WORLD
    for config in CONFIGS:
        compare_with_one_process(rank, group, config)
    compare_with_one_process(rank, group, KLConfig(), grad_eps=3e-3, tolerance=5e-3)
    capped = {"student_transform": LogitTransform(1.5, cap=4.0), "teacher_transform": LogitTransform(0.5)}
    compare_with_one_process(rank, group, KLConfig(), **capped)
    compare_with_one_process(rank, group, KLConfig(), grad_eps=3e-3, tolerance=5e-3, **capped)
    bad_shards_are_refused_everywhere(rank, group)
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 4])
def test_sharded_vocabulary_gives_what_one_process_gives(processes, tmp_path):
    mp.spawn(process, args=(processes, tmp_path / "store"), nprocs=processes)


# With the fused kernels in Triton's interpreter. Run as a program: TRITON_INTERPRET must be set from the start.


def interpreted_process(rank, processes, store):
    from opsd.kl import exact
    from opsd.kl.kernels import fused

    exact.fused_kernels_support = lambda device, *rest: fused.supports(*rest)
    fused.BLOCK = 8
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    case = {name: x.float() for name, x in whole_case().items()}
    arguments = {"config": KLConfig("mixed", temperature=0.7), "chunk_tokens": 13}
    expected, (hidden, head, bias) = outputs(case, **arguments)
    out, actual = outputs(sharded(case, SHARDS[processes], rank), group=dist.group.WORLD, **arguments)
    for name in ("loss", *VALUES, "top1_agreement"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name))
    mine = sharded({"student_head": head, "student_bias": bias}, SHARDS[processes], rank)
    torch.testing.assert_close(actual, [hidden, mine["student_head"], mine["student_bias"]])
    dist.destroy_process_group()


def test_sharded_vocabulary_with_the_fused_kernels(tmp_path):
    pytest.importorskip("triton", reason="needs Triton, for its interpreter")
    here = Path(__file__)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parents[3]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "tests.opsd.kl.test_vocab_parallel", str(tmp_path / "store")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=here.parents[3],
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]


if __name__ == "__main__":
    mp.spawn(interpreted_process, args=(2, sys.argv[1]), nprocs=2)
