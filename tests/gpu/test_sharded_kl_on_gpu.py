"""The exact KL of a vocabulary sharded over two processes, on one or two GPUs: what one process gives."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from opsd.kl import exact_kl
from opsd.kl.dense import WHOLE_BATCH_TOKENS
from tests.opsd.helpers.kl_cases import near_equal_case, relative_error, require_grad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB, PADDING, WIDTH = 20_000, 96, 256
NAMES = ("student_hidden", "student_head")


def gradients(case, **arguments):
    case = require_grad(case, NAMES)
    out = exact_kl(**case, vocab_size=VOCAB, **arguments)
    out.loss.backward()
    return out, [case[name].grad for name in NAMES]


def process(rank, store, tokens, dtype, grad_eps):
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"  # NCCL takes each GPU once
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)
    case = near_equal_case(1e-1, dtype, tokens, VOCAB + PADDING, WIDTH)
    case = {name: x.to(device) for name, x in case.items()}
    expected, (hidden, head) = gradients(case)
    mine = slice(rank * (VOCAB + PADDING) // 2, (rank + 1) * (VOCAB + PADDING) // 2)
    shards = {name: x[mine].clone() if name.endswith("head") else x for name, x in case.items()}
    out, (my_hidden, my_head) = gradients(shards, group=dist.group.WORLD, grad_eps=grad_eps)
    found = {
        "token_kl": relative_error(out.token_kl, expected.token_kl),
        "hidden": relative_error(my_hidden, hidden),
        "head": float((my_head - head[mine]).norm() / head.norm()),
    }
    assert all(error < 1e-2 for error in found.values()), found
    dist.destroy_process_group()


@pytest.mark.parametrize("grad_eps", [0.0, 1e-4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [70, WHOLE_BATCH_TOKENS + 900])
def test_two_shards_give_what_one_process_gives(tokens, dtype, grad_eps, tmp_path):
    mp.spawn(process, args=(tmp_path / "store", tokens, dtype, grad_eps), nprocs=2)
