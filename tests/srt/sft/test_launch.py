"""How many processes train, on one machine or several."""

import logging
import os

import pytest

from srt.common.errors import UserError
from srt.sft.launch import Processes, find_processes, launch_command
from srt.sft.worker import accept_unused_lm_head

STEP = {"SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "2", "SLURM_JOB_ID": "123456"}


@pytest.fixture(params=[0, 1, 8])
def gpus(request, monkeypatch) -> int:
    monkeypatch.setattr("torch.cuda.device_count", lambda: request.param)
    return request.param


def test_there_is_one_process_per_visible_gpu_and_one_without_gpus(gpus):
    assert find_processes(None, None, {}).total == max(gpus, 1)


def test_num_processes_takes_precedence_but_processes_never_share_a_gpu(gpus):
    if gpus == 1:
        with pytest.raises(UserError, match="NUM_PROCESSES=2: only 1 GPU is visible"):
            find_processes(2, None, {})
    else:
        assert find_processes(2, None, {}).total == 2


def test_a_free_port_is_found_unless_one_is_requested():
    assert find_processes(1, 29501, {}).port == 29501
    assert find_processes(1, None, {}).port > 0


def test_a_slurm_step_with_one_task_per_machine_is_one_training_run():
    processes = find_processes(8, None, STEP | {"MASTER_ADDR": "node-a", "SLURM_NNODES": "4"})
    assert (processes.total, processes.machines, processes.machine_rank, processes.address) == (32, 4, 2, "node-a")
    assert processes.port == find_processes(8, None, STEP | {"MASTER_ADDR": "node-a", "SLURM_NODEID": "0"}).port


def test_the_first_machine_comes_from_slurm_or_must_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        find_processes(8, None, STEP)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node-a\necho node-b\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert find_processes(8, None, STEP).address == "node-a"
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    with pytest.raises(
        UserError, match=r"scontrol named none \(Unable to contact slurm controller\); set MASTER_ADDR"
    ):
        find_processes(8, None, STEP)


def test_a_batch_script_without_srun_trains_on_its_own_machine():
    assert find_processes(8, None, {"SLURM_NNODES": "4", "SLURM_NODEID": "0"}).machines == 1


def test_several_tasks_on_one_machine_are_refused():
    with pytest.raises(UserError, match="8 tasks on 1 machine.*--ntasks-per-node=1"):
        find_processes(None, None, {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "8"})


def test_accelerate_launches_gpu_processes():
    command = launch_command(Processes(8, 4, 2, "node-a", 29501), ["plan.pickle"], on_gpu=True)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    expected = {"--num_processes=32", "--num_machines=4", "--machine_rank=2", "--main_process_ip=node-a"}
    assert expected | {"--main_process_port=29501"} <= set(command)
    assert command[-3:] == ["--module", "srt.sft.worker", "plan.pickle"]


AT_EXIT = """
import atexit, os, pathlib, sys

FOLDER, RANK, write = pathlib.Path(__file__).parent, os.environ.get("RANK"), pathlib.Path.write_text

@atexit.register
def note_process_group():
    if RANK:
        write(FOLDER / ("rank" + RANK), str(sys.modules["torch.distributed"].is_initialized()))

class Kept:  # until Python clears its modules
    def __del__(self, path=FOLDER / f"finalized{RANK}"):
        write(path, "")

kept = Kept()
"""


FAILING = """
import logging
import os

if os.environ.get("RANK") == "1":
    import srt.sft.stages

    def fail(*_):
        raise MemoryError("of this one")

    srt.sft.stages.new_model = fail
"""


def test_the_error_of_a_process_other_than_the_first_is_the_commands_error(run_train, monkeypatch, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(UserError, match=r"^not enough memory \(of this one\)"):
        run_train("num_processes=2")


def test_processes_end_without_their_group_and_without_finalization(run_train, monkeypatch, tmp_path):
    """Gloo's threads outlive a group; finalization then aborts about every fourth process that has finished."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AT_EXIT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    run_train("num_processes=2", "epochs_stage1=0.1", "epochs_stage2=0.1")
    assert [(tmp_path / "site" / f"rank{rank}").read_text() for rank in (0, 1)] == ["False", "False"]
    finalized = {path.name for path in (tmp_path / "site").glob("finalized*")}
    assert finalized == {"finalizedNone"}  # the processes that train nothing
    run_train("num_processes=2", "epochs_stage1=0.1", "epochs_stage2=0.1")  # complete: none was ever created


def test_of_fsdps_warnings_only_that_of_the_unused_lm_head_is_dropped(caplog):
    logger = logging.getLogger("torch.distributed.fsdp.fully_shard")
    before = list(logger.filters)
    try:
        accept_unused_lm_head()
        logger.warning("1 of the 3 modules passed to fully_shard did not run forward before backward, which is")
        logger.warning("another warning")
    finally:
        logger.filters = before
    assert caplog.messages == ["another warning"]
