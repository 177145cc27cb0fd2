"""Errors that users can fix: one sentence that says where, what was found, and what to do."""

import errno
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, cast

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class UserError(Exception):
    """A problem that the user can fix; printed as one sentence, without a traceback."""


def user_message(error: Exception) -> str | None:
    """The message for an error that the user can fix; None for bugs."""
    if isinstance(error, UserError):
        return str(error)
    if reason := disk_full_reason(error):
        return (
            f"a file could not be written ({reason}); free space or change OUTPUT_DIR, then run the same command "
            "again"
        )
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return (
            f"not enough memory ({reason_of(error)}); --dry-run shows what the run needs, and smaller batches or "
            "shorter sequences need less"
        )
    return None


def _missing_package(error: ImportError) -> str | None:
    """An environment that lacks something; None for a name that this program itself should have."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "srt", "opsd", "quickstart"):
        return None
    return (
        f"the environment {sys.prefix} lacks what this command needs: {reason_of(error)}; activate another one, "
        "or install the packages as the README says"
    )


def reason_of(error: BaseException) -> str:
    """What a library's error says, in one line: its first line, or every message of a pydantic ValidationError.

    vLLM checks its configuration with pydantic, whose first line is only "1 validation error for ModelConfig".
    """
    entries = getattr(error, "errors", None)
    if not callable(entries):
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reasons = []
    for entry in cast(Iterable[dict[str, Any]], entries()):
        option = ".".join(str(part) for part in entry["loc"])
        message = " ".join(entry["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").split())
        reasons.append(f"{option}: {message}" if option else message)
    return "; ".join(reasons)


def typed_reason_of(error: BaseException) -> str:
    """`reason_of`, with the type of an error whose message says little without it."""
    typed = isinstance(error, LookupError | TypeError | AttributeError)
    return f"{type(error).__name__}: {reason_of(error)}" if typed else reason_of(error)


def disk_full_reason(error: Exception) -> str | None:
    """Why a file could not be written, as Python, safetensors or torch report it; None for any other error."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in CANNOT_WRITE else None
    if type(error).__name__ == "SafetensorError":
        number = re.search(r"I/O error.*\(os error (\d+)\)", str(error))
        return os.strerror(int(number[1])) if number and int(number[1]) in CANNOT_WRITE else None
    # torch.save only notices that fewer bytes were written than requested.
    if "inline_container.cc" in str(error) and re.search("unexpected pos|PytorchStreamWriter", str(error)):
        return "torch could not write the whole file"
    return None
