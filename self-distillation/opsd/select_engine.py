"""Which engine runs Phase 2, and why."""

import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from srt.common.errors import UserError
from srt.contract.paths import PHASE2

if TYPE_CHECKING:  # it imports torch, and check_environment.py must get along without
    from opsd.config import DistillConfig

CHECKOUT = PHASE2 / ".venv" / "nemo-rl"  # where setup_env.sh puts it
TRANSFORMERS_BELOW = (5, 12)  # NeMo-RL v0.7.0 refuses newer ones when it is imported
NEEDED = ("ray", "vllm", "torchdata", "tensordict", "hydra", "accelerate")
MEGATRON = {
    "megatron-core": "megatron.core",
    "megatron-bridge": "megatron.bridge",
    "nvidia-modelopt": "modelopt",
}
# MEGATRON_LAYERS=te. The last is built from source and has no module of its own.
TRANSFORMER_ENGINE = ("transformer-engine", "transformer-engine-cu13", "transformer-engine-torch")


def select_engine(requested: str, gpus: int, num_nodes: int, installed: bool = False) -> tuple[str, str]:
    """("local" or "nemo-rl", the reason). `gpus`: the ones visible on this node. `installed`: take NeMo-RL to be
    there.

    Raises UserError, naming ENGINE=local, when nemo-rl is not available but requested, or needed to use all GPUs.
    """
    if requested == "local":
        note = f"; it uses one of the {gpus} visible GPUs, ENGINE=nemo-rl uses all" if gpus > 1 else ""
        return "local", f"chosen by ENGINE{note}"
    missing = "no GPU is visible" if gpus == 0 else None if installed else why_no_nemo_rl()
    if requested == "nemo-rl":
        if missing:
            raise UserError(f"ENGINE=nemo-rl: {missing}. ENGINE=local needs none of that")
        return "nemo-rl", "chosen by ENGINE"
    if gpus <= 1 and num_nodes == 1:
        return "local", f"ENGINE=auto: {'one GPU' if gpus else 'no GPU'}; nemo-rl is for several"
    several = f"{gpus} GPUs" if num_nodes == 1 else f"{num_nodes} nodes"
    if not missing:
        return "nemo-rl", f"ENGINE=auto, {several}"
    if num_nodes > 1:
        raise UserError(f"NUM_NODES={num_nodes} needs ENGINE=nemo-rl, but {missing}. ENGINE=local uses one GPU")
    raise UserError(f"{several} are visible, but {missing}. ENGINE=local trains on one of them")


def why_no_nemo_rl() -> str | None:
    """None, or what is missing, in words that fit into a sentence. Imports nothing heavy."""
    remedy = "`cd self-distillation && uv venv && source setup_env.sh` installs everything"
    if nemo_rl_source() is None and importlib.util.find_spec("nemo_rl") is None:
        named = os.environ.get("NEMO_RL_DIR")
        where = f"NEMO_RL_DIR={named} does not contain NeMo-RL" if named else "NeMo-RL is not installed"
        return f"{where} ({remedy})"
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed ({remedy})"
    installed = version("transformers")
    if tuple(int(part) for part in installed.split(".")[:2]) >= TRANSFORMERS_BELOW:
        below = ".".join(map(str, TRANSFORMERS_BELOW))
        return f"NeMo-RL needs transformers below {below} and {installed} is installed ({remedy})"
    return None


def check_engine(config: "DistillConfig", engine: str, installed: bool = False) -> None:
    """Raises UserError for a configuration that the selected engine does not support.

    `installed`: take Megatron to be there.
    """
    if engine == "nemo-rl" and config.lora_rank:
        raise UserError(f"LORA_RANK={config.lora_rank}: ENGINE=nemo-rl trains all weights; use ENGINE=local")
    for knob, value in (("REWARD_WEIGHT", config.reward_weight), ("SRT_REPLAY", config.srt_replay)):
        if engine == "nemo-rl" and value:
            raise UserError(f"{knob}={value}: ENGINE=nemo-rl has no such term in its loss; use ENGINE=local")
    _check_rollout_gpus(config, engine)
    if config.trainer_backend != "megatron":
        for knob in ("pipeline_parallel_size", "context_parallel_size"):
            if (value := getattr(config, knob)) > 1:
                raise UserError(f"{knob.upper()}={value} needs TRAINER_BACKEND=megatron; leave it unset")
        if config.megatron_layers != "auto":
            raise UserError(
                f"MEGATRON_LAYERS={config.megatron_layers} needs TRAINER_BACKEND=megatron; leave it unset"
            )
        return
    if engine != "nemo-rl":
        raise UserError(
            f"TRAINER_BACKEND=megatron needs ENGINE=nemo-rl, and this run has ENGINE={engine}; leave "
            "TRAINER_BACKEND unset"
        )
    if not installed and (missing := why_no_megatron()):
        raise UserError(f"TRAINER_BACKEND=megatron: {missing}. TRAINER_BACKEND=dtensor needs none of that")
    if not installed and config.megatron_layers == "te" and (missing := why_no_transformer_engine()):
        raise UserError(f"MEGATRON_LAYERS=te: {missing}. MEGATRON_LAYERS=local does without")


def _check_rollout_gpus(config: "DistillConfig", engine: str) -> None:
    if engine != "nemo-rl" and config.rollout_gpus:
        raise UserError(
            f"ROLLOUT_GPUS={config.rollout_gpus} needs ENGINE=nemo-rl, and this run has ENGINE={engine}, which "
            "uses one GPU; leave ROLLOUT_GPUS unset"
        )
    if engine == "nemo-rl" and config.rollout_ahead and not config.rollout_gpus:
        raise UserError(
            "ROLLOUT_AHEAD=1: with ENGINE=nemo-rl vLLM samples where the trainer has left the GPUs, so it cannot "
            "do so meanwhile; give it GPUs of its own (ROLLOUT_GPUS=1, for example), or use ENGINE=local"
        )
    if config.rollout_gpus and config.trainer_backend == "megatron":
        raise UserError(
            f"ROLLOUT_GPUS={config.rollout_gpus}: TRAINER_BACKEND=megatron samples on the GPUs that it trains on; "
            "leave one of them unset"
        )


def why_no_megatron() -> str | None:
    """Like why_no_nemo_rl, for what NeMo-RL's Megatron worker needs in addition."""
    for package, module in MEGATRON.items():
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # its parent package is missing
            spec = None
        if spec is None:
            return (
                f"the package {package} is not installed (`cd self-distillation && EXTRAS=megatron source "
                "setup_env.sh` installs Megatron-Core and Megatron-Bridge)"
            )
    return None


def why_no_transformer_engine() -> str | None:
    """The same for MEGATRON_LAYERS=te."""
    for package in TRANSFORMER_ENGINE:
        try:
            version(package)
        except PackageNotFoundError:
            return (
                f"the package {package} is not installed (`cd self-distillation && EXTRAS=megatron source "
                "setup_env.sh` builds it where there is nvcc)"
            )
    return None


def choose_megatron_layers(requested: str) -> tuple[str, str]:
    """("te" or "local", the reason). `requested`: MEGATRON_LAYERS."""
    if requested != "auto":
        return requested, "chosen by MEGATRON_LAYERS"
    if missing := why_no_transformer_engine():
        return "local", f"MEGATRON_LAYERS=auto: {missing}"
    return "te", "MEGATRON_LAYERS=auto: Transformer Engine is installed"


def nemo_rl_source() -> Path | None:
    """The checkout: NEMO_RL_DIR, or the one that setup_env.sh made. None: neither exists."""
    named = os.environ.get("NEMO_RL_DIR")
    folder = Path(named) if named else CHECKOUT
    return folder.resolve() if (folder / "nemo_rl" / "package_info.py").is_file() else None


def put_nemo_rl_on_path() -> None:
    """To be called before NeMo-RL is imported; does nothing where it is installed as a package."""
    source = nemo_rl_source()
    if source and str(source) not in sys.path:
        sys.path.insert(0, str(source))
