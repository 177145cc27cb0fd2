"""Token authentication for Ray, which by default runs whatever anyone who reaches its ports sends it.

Ray reads these variables once, when it is imported: call these functions before anything imports it. They raise
RuntimeError where it is too late.
"""

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from srt.common.errors import UserError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Off: Ray takes the loopback address for this machine's own and listens on it alone, as it does by default on the
# systems in its name. On Linux, a loopback address given to ray.init() would be replaced by that of the network.
CLUSTERS_OF_SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def protect_own_cluster() -> None:
    """For a cluster that this process starts on this machine alone: loopback, and a token of its own.

    The token is in a file that only this user can read and that goes with this process; Ray's processes inherit
    its path. Unlike a variable, it does not show in Ray's records of its workers' environments. What the user has
    set stays.
    """
    os.environ.setdefault(CLUSTERS_OF_SEVERAL_MACHINES, "0")
    if _mode() == "token" and not (os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)):
        folder = tempfile.mkdtemp(prefix="sd_zero_ray_")  # mode 700
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "token"
        path.write_text(secrets.token_hex(32))
        os.environ[TOKEN_PATH] = str(path)


def require_token(knob: str) -> None:
    """For a cluster that is running already. `knob`: the setting that asked for it.

    Raises UserError when there is no token to join it with.
    """
    default = Path.home() / ".ray" / "auth_token"  # where Ray looks last
    if _mode() == "token" and not (os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH) or default.is_file()):
        raise UserError(
            f"{knob}: there is no token to join the Ray cluster with; start it with {MODE}=token and set "
            f"{TOKEN_PATH} to the file with its token, as examples/slurm_distill.sh does, or set {MODE}=disabled "
            "here for a cluster in which anyone who reaches its ports may run programs as you"
        )


def _mode() -> str:
    if MODE not in os.environ and "ray" in sys.modules:
        raise RuntimeError(f"Ray was imported before {MODE} was set, which it reads when it is imported")
    mode = os.environ.setdefault(MODE, "token")
    if mode == "disabled":
        print(f"warning: {MODE}=disabled: whoever reaches Ray's ports can run programs as you")
    return mode
