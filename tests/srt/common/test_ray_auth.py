"""What the environment says to Ray before it is imported; tests/opsd/nemo_rl/test_ray_auth.py asks Ray itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srt.common.errors import UserError
from srt.common.ray_auth import require_token

OWN = """
import os
from srt.common.ray_auth import protect_own_cluster
protect_own_cluster()
protect_own_cluster()
path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
print(os.environ["RAY_AUTH_MODE"], os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"], path)
if os.path.isfile(path):
    print(open(path).read(), oct(os.stat(os.path.dirname(path)).st_mode & 0o777))
"""


@pytest.fixture(autouse=True)
def no_settings_of_ray(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # of another test
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # so that what a test leaves behind is undone
    monkeypatch.delenv("RAY_AUTH_MODE")


def own_cluster(**settings: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | settings
    result = subprocess.run(
        [sys.executable, "-c", OWN], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def test_a_run_has_a_token_of_its_own_that_goes_with_it():
    (first, token), (second, other) = (map(str.split, own_cluster()) for _ in range(2))
    assert first[:2] == second[:2] == ["token", "0"]
    assert len(token[0]) == 64 and token[0] != other[0]
    assert token[1] == "0o700"
    assert not Path(first[2]).parent.exists()


def test_what_the_user_has_set_stays(tmp_path):
    assert own_cluster(RAY_AUTH_TOKEN="mine") == ["token 0 "]
    path = tmp_path / "token"
    path.write_text("mine")
    lines = own_cluster(RAY_AUTH_TOKEN_PATH=str(path), RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1")
    assert lines[0] == f"token 1 {path}" and path.read_text() == "mine"


def test_no_authentication_is_never_silent():
    warning, *_, settings = own_cluster(RAY_AUTH_MODE="disabled")
    assert "warning: RAY_AUTH_MODE=disabled" in warning and settings == "disabled 0 "


def test_a_running_cluster_is_not_joined_without_a_token(capsys, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="NUM_NODES=2: there is no token to join the Ray cluster with"):
        require_token("NUM_NODES=2")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    require_token("NUM_NODES=2")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("theirs")
    require_token("NUM_NODES=2")
    assert capsys.readouterr().out == ""
    (tmp_path / ".ray" / "auth_token").unlink()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_token("NUM_NODES=2")
    assert "whoever reaches Ray's ports can run programs as you" in capsys.readouterr().out


# The Slurm example -----------------------------------------------------------------------------------------

RECORD = """#!/bin/bash
echo "srun $* | $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH $(stat -c %a "$RAY_AUTH_TOKEN_PATH" 2>/dev/null) \
$(wc -c 2>/dev/null <"$RAY_AUTH_TOKEN_PATH") $RAY_ADDRESS" >>"$CALLS"
case "$*" in *ip-address) echo 10.0.0.1 ;; esac
"""

# Instead of sleeping: until the steps that were started before have been recorded.
WAIT = """#!/bin/bash
echo >>"$CALLS.waits"
for attempt in {1..3000}; do
  [ "$(wc -l <"$CALLS")" -gt "$(wc -l <"$CALLS.waits")" ] && exit
  /bin/sleep 0.01
done
"""


def submit(tmp_path: Path, nodes: int) -> list[str]:
    """The example's calls of srun, each with what it says to Ray."""
    commands = {"srun": RECORD, "scontrol": "#!/bin/bash\necho node1\n", "sleep": WAIT}
    for name, script in commands.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o700)
    (tmp_path / "self-distillation").mkdir(exist_ok=True)
    (tmp_path / "self-distillation" / "setup_env.sh").write_text("")
    calls = tmp_path / f"calls{nodes}"
    calls.touch()
    slurm = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node[1-2]"}
    slurm |= {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "CALLS": str(calls)}
    path = f"{tmp_path}:{os.environ['PATH']}"
    example = Path(__file__).parents[3] / "examples" / "slurm_distill.sh"
    subprocess.run(["bash", example, "LR=1"], env=os.environ | slurm | {"PATH": path}, check=True, timeout=60)
    return sorted(calls.read_text().splitlines(), key=lambda line: "distill.sh" in line)


def test_the_slurm_example_gives_every_node_the_same_secret(tmp_path):
    *_, driver = lines = submit(tmp_path, 2)
    clusters = [line for line in lines if "ray start" in line]
    assert len(clusters) == 2 and "bash scripts/distill.sh LR=1" in driver
    secrets = {line.split(" | ")[1].split(" 10.")[0].strip() for line in (*clusters, driver)}
    (settings,) = secrets
    mode, path, permissions, size = settings.split()
    assert (mode, permissions, size) == ("token", "600", "64")
    assert driver.endswith(" 10.0.0.1:20007")
    assert not Path(path).exists()  # gone with the job


def test_on_one_node_it_starts_no_cluster_on_the_network(tmp_path):
    (driver,) = submit(tmp_path, 1)
    assert "bash scripts/distill.sh LR=1" in driver and "RAY" not in driver.split("|")[0]
    assert not list(tmp_path.glob(".ray_token*"))


def test_it_is_too_late_once_ray_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())
    with pytest.raises(RuntimeError, match="Ray was imported before RAY_AUTH_MODE was set"):
        require_token("NUM_NODES=2")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # Ray has read it
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    require_token("NUM_NODES=2")
