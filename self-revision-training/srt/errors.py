"""Errors for people: one sentence that says where, what was found, and what to do."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the person who started the run can mend; printed as one sentence, without a traceback."""


def run_entry_point(main: Callable[[list[str]], None]) -> None:
    """Run an entry point's main(argv): a UserError ends it with exit code 2, Ctrl-C with 130.

    Every other exception is a bug of ours and keeps its traceback.
    """
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output is gone, as in `--help | head`
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)
