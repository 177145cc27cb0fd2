"""The next command to type, and the disk that a folder takes."""

from srt.common.console import SCRIPTED, print_next
from srt.common.disk import disk_bytes, shown_bytes


def test_the_next_command_can_be_pasted_and_leaves_out_defaults(capsys, monkeypatch):
    monkeypatch.delenv(SCRIPTED, raising=False)
    print_next("sft", {"MODEL_PATH": "my models/base", "DATA_PREFIX": None, "MODE": "code"})
    assert capsys.readouterr().out == "\nnext: MODEL_PATH='my models/base' MODE=code bash scripts/sft.sh\n"


def test_scripts_that_type_the_next_command_themselves_hide_it(capsys, monkeypatch):
    monkeypatch.setenv(SCRIPTED, "1")
    print_next("sft", {})
    assert capsys.readouterr().out == ""


def test_disk_bytes_count_files_once_and_links_never(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_bytes(b"x" * 1500)
    (tmp_path / "a" / "log").write_bytes(b"y" * 500)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "weights")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert disk_bytes(tmp_path) == 2000
    assert [shown_bytes(n) for n in (0, 1234, 5_000_000, 8_100_000_000, 2 * 10**12)] == [
        "0.0 kB",
        "1.2 kB",
        "5.0 MB",
        "8.1 GB",
        "2.0 TB",
    ]
