"""Errors for people: one sentence that says where, what was found, and what to do."""

import errno
import os
import re
import sys
from collections.abc import Callable

# What Python's tracker of semaphores says of vLLM's engines, which are killed at the end; it then frees them.
SILENCED_WARNINGS = "ignore::UserWarning:multiprocessing.resource_tracker"
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class UserError(Exception):
    """Something that the person who started the run can mend; printed as one sentence, without a traceback."""


def run_entry_point(main: Callable[[list[str]], None]) -> None:
    """Run an entry point's main(argv): a UserError or a full disk ends it with exit code 2, Ctrl-C with 130.

    Every other exception is a bug of ours and keeps its traceback.
    """
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), SILENCED_WARNINGS]))
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # the reader of our output is gone, as in `--help | head`
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        words = user_message(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        sys.exit(2)


def user_message(error: Exception) -> str | None:
    """What people are told of an error that they can mend; None for bugs of ours."""
    if isinstance(error, UserError):
        return str(error)
    if reason := disk_full_reason(error):
        return (
            f"a file could not be written ({reason}); free space or change OUTPUT_DIR, and start the same command "
            "again"
        )
    return None


def disk_full_reason(error: Exception) -> str | None:
    """The reason, when `error` is what the libraries that write weights make of a full disk; None for others."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in CANNOT_WRITE else None
    if type(error).__name__ == "SafetensorError":
        number = re.search(r"I/O error.*\(os error (\d+)\)", str(error))
        return os.strerror(int(number[1])) if number and int(number[1]) in CANNOT_WRITE else None
    # torch.save notices only that less was written than it asked for.
    if "inline_container.cc" in str(error) and re.search("unexpected pos|PytorchStreamWriter", str(error)):
        return "torch could not write all of it"
    return None
