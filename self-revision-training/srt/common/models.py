"""Loading checkpoints and checking the machine, with one sentence instead of a traceback when that fails."""

import importlib.util
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, logging

from srt.common.attention import use_exact_attention
from srt.common.errors import UserError, disk_full_reason, reason_of, typed_reason_of
from srt.common.mistral_warning import hide_false_alarm
from srt.common.progress import heartbeat
from srt.common.remote_code import needs_remote_code, remote_code_allowed, remote_code_message
from srt.common.rope import fix_rope, rope_overrides
from srt.common.weight_files import check_weight_files

HUB_ADVICE = "check the name and the network, or name a local folder"
HIDES_ALL_GPUS = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES; the last is Slurm's

logging.disable_progress_bar()  # "Loading weights" only clutters our own bars


def _load(what: str, model_path: str, load: Any, **kwargs: Any) -> Any:
    check_folder(model_path)
    try:
        return load(model_path, trust_remote_code=remote_code_allowed(), **kwargs)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged files raise whatever their reader stumbles over
        if needs_remote_code(error):
            raise UserError(remote_code_message(model_path, what)) from error
        is_folder = Path(model_path).is_dir()
        where = "" if is_folder else ", either as a folder or from the Hugging Face hub"
        advice = "" if is_folder else f"; {HUB_ADVICE}"
        raise UserError(
            f"{model_path}: its {what} could not be loaded{where} ({typed_reason_of(error)}){advice}"
        ) from error


def check_folder(model_path: str) -> None:
    """Raises UserError for a path to nothing, to a file, or to a folder without a model, naming the one in it."""
    path = Path(model_path)
    looks_local = model_path.startswith((".", "/", "~")) or model_path.count("/") > 1
    if path.is_file():
        raise UserError(f"{model_path}: a file; expected a checkpoint folder or a Hugging Face id")
    if not path.is_dir():
        if looks_local:
            raise UserError(f"{model_path}: no such checkpoint folder")
        return
    if (path / "config.json").is_file():
        return
    try:
        inside = [folder.parent for pattern in ("*", "*/*") for folder in path.glob(f"{pattern}/config.json")]
    except OSError as error:
        raise UserError(f"{model_path}: cannot be read ({error.strerror})") from None
    # What is finished before what is on its way there.
    order = ("student", "stage2", "stage1")
    inside.sort(key=lambda folder: (order.index(folder.name) if folder.name in order else len(order), str(folder)))
    hint = f"; did you mean {inside[0]}?" if inside else ""
    raise UserError(f"{model_path}: no checkpoint, since it has no config.json{hint}")


def load_tokenizer(model_path: str) -> Any:
    hide_false_alarm(model_path)
    return _load("tokenizer", model_path, AutoTokenizer.from_pretrained)


def load_model_config(model_path: str) -> Any:
    return _load("config", model_path, AutoConfig.from_pretrained)


def model_without_weights(config: Any, **kwargs: Any) -> Any:
    """A causal language model with this transformers config, whose parameters and buffers take no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code_allowed(), **kwargs)


def has_experts(config: Any) -> bool:
    """Whether this transformers config is that of a mixture of experts."""
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def count_parameters(config: Any) -> int:
    """The parameters of a model with this transformers config; no weight is allocated."""
    return sum(parameter.numel() for parameter in model_without_weights(config).parameters())


def check_gpu() -> None:
    """Make sure that a GPU that is present is used, unless CUDA_VISIBLE_DEVICES hides it (empty, for example).

    Without this, a driver that is too old for the torch build would leave all work to the CPU without a word.
    Raises UserError with torch's reason. A torch build for CPUs was chosen on purpose; that only prints a line.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in HIDES_ALL_GPUS
    if hidden or torch.cuda.is_available() or not (present := present_gpus()):
        return
    if torch.version.cuda is None:
        print(f"device: CPU; torch {torch.__version__} is a build for CPUs and leaves {', '.join(present)} alone")
        return
    try:
        torch.cuda.init()
        reason = "torch.cuda.is_available() is false"
    except (RuntimeError, AssertionError) as error:
        reason = reason_of(error)
    raise UserError(
        f"a GPU is present ({present[0]}) and torch {torch.__version__} cannot use it: {reason}. Install a driver "
        f"for CUDA {torch.version.cuda} or a torch build for your driver; CUDA_VISIBLE_DEVICES= (empty) runs on "
        "the CPU"
    )


def present_gpus() -> list[str]:
    """The device files of NVIDIA's GPUs, which exist whether or not torch can use them."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def check_reporter(report_to: str) -> None:
    """Raises UserError when the package that REPORT_TO names is not installed."""
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise UserError(
            f"REPORT_TO={report_to}: the package {report_to} is not installed in this environment; install it, or "
            "set REPORT_TO=none"
        )


def check_saving(model_path: str, tokenizer: Any, eot_ids: list[int]) -> None:
    """Save everything of a checkpoint but its weights into a temporary folder, as the end of a training does.

    Raises UserError, naming the part, where transformers refuses: after the training would be too late.
    """
    config = load_model_config(model_path)
    generation = load_generation_config(model_path) or GenerationConfig.from_model_config(config)
    generation.eos_token_id = eot_ids
    parts = {"config": config, "generation config": generation, "tokenizer with its chat template": tokenizer}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            try:
                part.save_pretrained(folder)
            except Exception as error:  # whatever it is, it would end the training at its first checkpoint
                if disk_full_reason(error):
                    raise
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{model_path}: its {name} could be loaded and cannot be saved, so no checkpoint could be "
                    f"written ({reason}); correct it in a local copy of the model"
                ) from error


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of that name; "auto" is bf16 on a GPU and fp32 otherwise."""
    if dtype == "auto":
        dtype = "bfloat16" if default_device().type == "cuda" else "float32"
    return getattr(torch, dtype)


def load_model(model_path: str, dtype: str = "auto", device: str | None = None) -> Any:
    """A causal language model on `device` (default: the GPU if there is one), with an attention that it supports.

    Raises UserError if that fails.
    """
    model = _load_whole(model_path, dtype=resolve_dtype(dtype))
    correct_model(model, model_path)
    model = model.to(device or default_device())
    use_exact_attention(model)
    return model


def check_weights(model_path: str) -> None:
    """Raises UserError for a checkpoint that is damaged or lacks weights, by their names and shapes alone."""
    _load_whole(model_path, device_map="meta")


def _load_whole(model_path: str, **options: Any) -> Any:
    """A model of which transformers has made up nothing."""
    check_folder(model_path)
    check_weight_files(model_path)
    load = AutoModelForCausalLM.from_pretrained
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report on missing tensors is a table; ours is a sentence
    try:
        with heartbeat(f"loading {model_path}"):
            model, info = _load("model", model_path, load, **options)
    finally:
        logging.set_verbosity(verbosity)
    _check_loaded(model_path, info)
    return model


def _check_loaded(model_path: str, info: Any) -> None:
    """Raises UserError when the checkpoint lacks weights, which transformers would make up at random."""
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"])
    for names, what in ((missing, "missing"), (mismatched, "of another shape than its config says")):
        if names:
            raise UserError(
                f"{model_path}: tensors {what}: {len(names)} (the first: {names[0]}); copy the checkpoint "
                "again, or use another one"
            )


def correct_model(model: Any, model_path: str) -> None:
    """Change in place what would make a model compute something else from one batch to the next, or fail.

    Every process that trains or scores calls it, since it also turns off cuDNN's attention: on Hopper, that gives
    NaN gradients for some lengths with a padding mask (pytorch issue 196678; seen with Qwen2.5). The flash and
    memory-efficient kernels, which torch uses instead, do not.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if model.base_model is model and isinstance(getattr(model, "model", None), torch.nn.Module):
        model.base_model_prefix = "model"  # Llama 4's text model names another one, which it does not have
    fix_rope(model, model_path)


def vocab_size(model_path: str) -> int:
    """The number of tokens in the model's embedding."""
    return int(load_model_config(model_path).get_text_config().vocab_size)


def padding_id(model_path: str, tokenizer: Any, eot_id: int) -> int:
    """The tokenizer's padding token; the end of turn where it has none, or one beyond the model's embedding.

    Padding is masked, so any token of the model would do.
    """
    pad_id = tokenizer.pad_token_id
    return eot_id if pad_id is None or pad_id >= vocab_size(model_path) else pad_id


def exceeds_embedding(model_path: str, tokenizer: Any) -> bool:
    """Whether the tokenizer knows tokens without an embedding, which some text may contain."""
    return max(tokenizer.get_vocab().values(), default=0) >= vocab_size(model_path)


def check_token_ids(model_path: str, tokenizer: Any, ids: Iterable[int]) -> None:
    """Raises UserError for a token without an embedding, which on a GPU ends in an assertion of a CUDA kernel."""
    size, largest = vocab_size(model_path), max(ids, default=0)
    if largest >= size:
        raise UserError(
            f"{model_path}: its tokenizer writes {tokenizer.convert_ids_to_tokens(largest)!r} as token {largest}, "
            f"and its embedding ends at {size - 1} (vocab_size in its config); use a tokenizer that fits, or "
            "enlarge the embedding with resize_token_embeddings in a local copy"
        )


def load_generation_config(model_path: str) -> GenerationConfig | None:
    """None for a model without one. Raises UserError for one that is damaged."""
    try:
        return GenerationConfig.from_pretrained(model_path)
    except Exception as error:  # OSError where there is none, and anything where it is damaged
        path = Path(model_path) / GENERATION_CONFIG_NAME
        if isinstance(error, OSError) and not path.exists():
            return None
        raise UserError(f"{path}: not readable as a generation config ({reason_of(error)})") from error


def eot_ids(model_path: str, tokenizer: Any) -> list[int]:
    """The end-of-turn tokens in the model's generation config, else the tokenizer's eos token.

    Raises UserError when neither is set.
    """
    config = load_generation_config(model_path)
    ids = config.eos_token_id if config else None
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise UserError(f"{model_path}: neither its generation config nor its tokenizer names an eos token")
    return [ids] if isinstance(ids, int) else list(dict.fromkeys(ids))


def context_limit(model_path: str) -> int:
    """Context length of the model in tokens, prompt and response together."""
    config = load_model_config(model_path)
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31 - 1)


def vllm_overrides(model_path: str) -> dict[str, Any]:
    """What vLLM must read otherwise than the model's config has it, to compute what `load_model` computes."""
    return rope_overrides(load_model_config(model_path), model_path)


def stored_dtype(model_path: str) -> torch.dtype:
    """The dtype in which a checkpoint's weights are stored; fp32 if its config does not say."""
    config = load_model_config(model_path)
    dtype = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
