"""What the commands of these experiments do with -h, and with options that they do not expect."""

import sys
from collections.abc import Iterable

from srt.common.errors import UserError
from srt.common.name_values import HELP


def show_help(arguments: Iterable[str], usage: str | None) -> None:
    """With -h or --help among the arguments, prints `usage`, the docstring of a module, and ends the process."""
    if any(argument in HELP for argument in arguments):
        print((usage or "").strip())
        sys.exit(0)


def refuse_options(arguments: Iterable[str], usage: str | None) -> None:
    """Raises UserError for an argument with --, unknown or, where `usage` has it, not expected with the others."""
    for argument in arguments:
        if argument.startswith("--"):
            what = "unexpected" if argument in (usage or "").split() else "unknown"
            raise UserError(f"{what} argument '{argument}'; --help shows how to run this script")
