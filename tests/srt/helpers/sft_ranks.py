"""Run by test_weights.py, in one process or under torchrun: a training that says what each rank's memory held.

CHECKPOINT OUT [RESUMED]: writes OUT/rank<n>.json, and the trained weights to OUT/weights.safetensors, from which
RESUMED = 1 then starts.
"""

import json
import os
import sys
from pathlib import Path

LENGTHS = [6, 9, 4, 8]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(checkpoint: str, out: Path, resumed: bool) -> None:
    from srt.sft.launch import FSDP2, end_training_process

    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        os.environ.update(FSDP2)
    import torch
    from safetensors.torch import save_file

    from srt.common.models import load_tokenizer
    from srt.config import load_config
    from srt.contract.layout import TokenSequence
    from srt.sft.batching import plan_padded, plan_updates
    from srt.sft.config import SftConfig
    from srt.sft.trainer import PassCollator, make_trainer, training_arguments
    from srt.sft.weights import new_model, trained_weights

    rank = int(os.environ.get("RANK", 0))
    config = load_config(
        SftConfig, "sft", ["report_to=none", f"lora_rank={os.environ.get('RANK_OF_ADAPTERS', 0)}"]
    )
    sequences = [TokenSequence([3 + (7 * n + 5 * k) % 50 for k in range(n)], start=2) for n in LENGTHS]
    plan = plan_padded(plan_updates(len(sequences), 2, 2, 0), LENGTHS, 1, processes)
    before = resident_bytes()
    model = new_model(checkpoint, config, "sdpa", out if resumed else None)
    loaded = resident_bytes() - before
    arguments = training_arguments(config, out / "work", plan, 1e-3, validate=False)
    collator = PassCollator(sequences, 0, packed=False)
    trainer = make_trainer(model, arguments, collator, plan, None, load_tokenizer(checkpoint), [])
    del model
    trainer.train()
    losses = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
    weights = trained_weights(trainer.model)
    if rank == 0:
        save_file(weights, out / "weights.safetensors")
    said = {"loaded": loaded, "losses": losses, "cudnn": torch.backends.cuda.cudnn_sdp_enabled()}
    (out / f"rank{rank}.json").write_text(json.dumps(said))
    end_training_process()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), bool(int((*sys.argv, "0")[3])))
