"""Which engine runs Phase 2, and why."""

import importlib.util
import os
import sys
from pathlib import Path

from srt.common.errors import UserError
from srt.contract.paths import PHASE2

CHECKOUT = PHASE2 / ".venv" / "nemo-rl"  # where setup_env.sh puts it
TRANSFORMERS_BELOW = (5, 12)  # NeMo-RL v0.7.0 refuses newer ones when it is imported
NEEDED = ("ray", "vllm", "torchdata", "tensordict", "hydra", "accelerate")
MEGATRON = {
    "megatron-core": "megatron.core",
    "megatron-bridge": "megatron.bridge",
    "transformer-engine": "transformer_engine",
}


def choose_engine(asked: str, gpus: int, num_nodes: int) -> tuple[str, str]:
    """("local" or "nemo-rl", the reason). `gpus`: that are visible on this node.

    Raises UserError, naming ENGINE=local, when nemo-rl is asked for and cannot be had.
    """
    if asked == "local":
        note = f"; it uses one of the {gpus} visible GPUs, ENGINE=nemo-rl uses all" if gpus > 1 else ""
        return "local", f"chosen by ENGINE{note}"
    missing = "no GPU is visible" if gpus == 0 else why_no_nemo_rl()
    if asked == "nemo-rl":
        if missing:
            raise UserError(f"ENGINE=nemo-rl: {missing}. ENGINE=local needs none of that")
        return "nemo-rl", "chosen by ENGINE"
    if gpus <= 1 and num_nodes == 1:
        return "local", f"ENGINE=auto, {'one GPU' if gpus else 'no GPU'}: nemo-rl is for several"
    several = f"{gpus} GPUs" if num_nodes == 1 else f"{num_nodes} nodes"
    if not missing:
        return "nemo-rl", f"ENGINE=auto, {several}"
    if num_nodes > 1:
        raise UserError(f"NUM_NODES={num_nodes} needs ENGINE=nemo-rl, but {missing}. ENGINE=local uses one GPU")
    return "local", f"ENGINE=auto; it uses one of {several}, since {missing}"


def why_no_nemo_rl() -> str | None:
    """None, or what is missing, in words that fit into a sentence. Imports nothing heavy."""
    mend = "`cd self-distillation && uv venv && source setup_env.sh` prepares everything"
    if nemo_rl_source() is None and importlib.util.find_spec("nemo_rl") is None:
        named = os.environ.get("NEMO_RL_DIR")
        where = f"NEMO_RL_DIR={named} holds no NeMo-RL" if named else "NeMo-RL is not here"
        return f"{where} ({mend})"
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed ({mend})"
    from importlib.metadata import version

    found = version("transformers")
    if tuple(int(part) for part in found.split(".")[:2]) >= TRANSFORMERS_BELOW:
        below = ".".join(map(str, TRANSFORMERS_BELOW))
        return f"NeMo-RL needs transformers below {below} and {found} is installed ({mend})"
    return None


def check_trainer_backend(backend: str, engine: str) -> None:
    """Raises UserError when TRAINER_BACKEND=megatron cannot be had. `engine`: the one that was chosen."""
    if backend != "megatron":
        return
    if engine != "nemo-rl":
        raise UserError(
            f"TRAINER_BACKEND=megatron needs ENGINE=nemo-rl, and this run has ENGINE={engine}; leave "
            "TRAINER_BACKEND unset"
        )
    if missing := why_no_megatron():
        raise UserError(f"TRAINER_BACKEND=megatron: {missing}. TRAINER_BACKEND=dtensor needs none of that")


def why_no_megatron() -> str | None:
    """As why_no_nemo_rl, for what NeMo-RL's Megatron worker needs beyond that."""
    for package, module in MEGATRON.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # of the package that it would be in
            found = None
        if found is None:
            return (
                f"the package {package} is not installed (`cd self-distillation && EXTRAS=megatron source "
                "setup_env.sh` installs Megatron-Core, Megatron-Bridge and Transformer Engine)"
            )
    return None


def nemo_rl_source() -> Path | None:
    """The checkout: NEMO_RL_DIR, or where setup_env.sh puts one. None: neither is there."""
    named = os.environ.get("NEMO_RL_DIR")
    folder = Path(named) if named else CHECKOUT
    return folder.resolve() if (folder / "nemo_rl" / "package_info.py").is_file() else None


def put_nemo_rl_on_path() -> None:
    """Before anything of NeMo-RL is imported. Beside an environment that has it installed, nothing is done."""
    source = nemo_rl_source()
    if source and str(source) not in sys.path:
        sys.path.insert(0, str(source))
