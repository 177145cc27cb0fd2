"""A run's own Ray cluster: reachable from this machine alone, and only with the run's token.

Needs Ray; skipped loudly otherwise. What strangers may do is asked of a real cluster, in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[1] / "helpers" / "ray_cluster.py"
VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: its authentication was NOT tried"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "found.json"
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "FOUND": str(path)}
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | settings
    models = ["student_model=unused", "teacher_model=unused"]
    subprocess.run([sys.executable, CLUSTER, *models], env=environment, check=True, timeout=500)
    return json.loads(path.read_text())


@pytest.mark.timeout(600)
def test_only_who_has_the_token_gets_in(found):
    assert found["friend"]
    assert not found["wrong token"] and not found["no token"]


@pytest.mark.timeout(600)
def test_only_this_user_can_read_the_token(found):
    assert (found["mode of its folder"], found["token in a worker's environment"]) == ("0o700", False)
    assert not found["token in the logs"]


@pytest.mark.timeout(600)
def test_the_network_does_not_reach_it(found):
    assert found["addresses"]
    assert all(address.removeprefix("::ffff:").startswith("127.") for address in found["addresses"]), found
