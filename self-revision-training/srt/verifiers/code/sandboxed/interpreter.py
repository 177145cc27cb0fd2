"""What Python's start-up does for programs, without what takes long: both scripts here are started with -S."""

import os
import site  # without consequences after -S
import sys


def complete():
    """Installed packages can be imported, and exit() and its like exist; .pth files are not executed."""
    sys.path += filter(os.path.isdir, site.getsitepackages())
    site.setquit()
    site.setcopyright()
    site.sethelper()
