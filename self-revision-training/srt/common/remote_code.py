"""TRUST_REMOTE_CODE: whether Python code that comes with a model may run, in every process of a run.

transformers and vLLM run such code only when they are told so. NeMo-RL tells them so in each of its processes,
whatever the user decided; there `enforce_remote_code` has the last word.
"""

import importlib
import os
import sys
from typing import Any

VARIABLE = "SD_ZERO_TRUST_REMOTE_CODE"  # inherited by every process that a run starts
RESOLVE = "resolve_trust_remote_code"  # of transformers: decides for each config, model and tokenizer


def allow_remote_code(allowed: bool) -> None:
    """Set the knob's value for this process and those it starts; to be called before a model is loaded."""
    os.environ[VARIABLE] = str(int(allowed))


def remote_code_allowed() -> bool:
    return os.environ.get(VARIABLE) == "1"


def needs_remote_code(error: BaseException) -> bool:
    """Whether a library refused to load something because it comes with code that it was not told to trust."""
    return "trust_remote_code" in str(error)


def remote_code_message(model_path: str, what: str) -> str:
    """What to do about such a refusal, in one sentence."""
    return (
        f"{model_path}: its {what} comes with Python code of its own, which runs only with TRUST_REMOTE_CODE=1; "
        "read that code first"
    )


def enforce_remote_code() -> None:
    """Have transformers ignore `trust_remote_code=True` in this process unless the knob allows it.

    A model that transformers knows is then loaded with transformers' code, any other one is refused.
    """
    if remote_code_allowed():
        return
    for part in ("configuration", "tokenization"):
        importlib.import_module(f"transformers.models.auto.{part}_auto")
    importlib.import_module("transformers.models.auto.auto_factory")
    for name, module in list(sys.modules.items()):
        original = vars(module).get(RESOLVE) if name.startswith("transformers.") else None
        if original is not None and not getattr(original, "is_enforced", False):
            setattr(module, RESOLVE, _distrusting(original))


def _distrusting(resolve: Any) -> Any:
    def enforced(trust_remote_code: Any, *arguments: Any, **keywords: Any) -> Any:
        return resolve(False, *arguments, **keywords)

    enforced.is_enforced = True  # pyright: ignore[reportFunctionMemberAccess]
    return enforced
