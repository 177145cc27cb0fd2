"""Run by test_ray_auth.py: starts the cluster of a run, and writes down who gets in.

For a friend and two strangers, one with another token and one without authentication, whether it got in; then the
addresses on which the cluster listens, and whether the token shows in its workers' environment or in its logs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

STRANGER = "import ray; ray.init(address='{}', log_to_driver=False); print('inside')"


def main(argv: list[str]) -> None:
    from opsd.config import RunConfig
    from opsd.nemo_rl.driver import runtime
    from srt.config import load_config

    config = load_config(RunConfig, "distill", argv)
    runtime.prepare_ray(config)
    runtime.join_ray(config, gpus=0)
    import psutil
    import ray

    @ray.remote
    def environment() -> dict[str, str]:
        return dict(os.environ)

    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    token, context = path.read_text(), ray.get_runtime_context()
    found = {
        "friend": "inside" in stranger(context.gcs_address, {}),
        "wrong token": "inside" in stranger(context.gcs_address, {"RAY_AUTH_TOKEN": "0" * 64}),
        "no token": "inside" in stranger(context.gcs_address, {"RAY_AUTH_MODE": "disabled"}),
        "mode of its folder": oct(path.parent.stat().st_mode & 0o777),
        "token in a worker's environment": token in ray.get(environment.remote()).values(),
        "addresses": sorted(
            {
                connection.laddr.ip
                for process in psutil.Process().children(recursive=True)
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
        ),
        "token in the logs": any(
            token.encode() in log.read_bytes()
            for log in Path(ray._private.worker._global_node.get_session_dir_path()).rglob("*")  # pyright: ignore
            if log.is_file()
        ),
    }
    ray.shutdown()
    Path(os.environ["FOUND"]).write_text(json.dumps(found))


def stranger(address: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", STRANGER.format(address)]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return result.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
