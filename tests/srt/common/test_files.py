"""Files that survive crashes and full disks."""

import json
import os

import pytest

from srt.common.errors import UserError
from srt.common.files import (
    JsonlLog,
    atomic_write,
    parse_jsonl,
    read_json,
    read_jsonl,
    remove,
    write_json,
    write_jsonl,
)

ODD_VALUES = {"text": "∑ \u2028 \x00 \n", "surrogate": "\ud83d", "number": 1e-7, "list": [None, True, {}]}


def one_sentence(caught, path):
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# Whole files --------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    path = tmp_path / "deep" / "er" / "value.json"
    write_json(path, ODD_VALUES)
    assert read_json(path) == ODD_VALUES
    assert "∑" in path.read_text(encoding="utf-8")  # readable


def test_jsonl_round_trip(tmp_path):
    path = tmp_path / "values.jsonl"
    write_jsonl(path, [ODD_VALUES, {}, {"last": 1}])
    assert read_jsonl(path) == [ODD_VALUES, {}, {"last": 1}]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())  # not JSON
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert read_json(path) == 1
    assert os.listdir(tmp_path) == ["value.json"]


def test_the_final_name_appears_only_when_the_file_is_complete(tmp_path):
    path = tmp_path / "value.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename within one file system is atomic
    assert path.read_text() == "half"


@pytest.mark.parametrize("write", [lambda path: write_json(path, {}), lambda path: JsonlLog(path)])
@pytest.mark.parametrize("place", ["file/value.json", "file/deep/value.json"])
def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path, write, place):
    (tmp_path / "file").touch()
    path = tmp_path / place  # below a file, where not even root can write
    with pytest.raises(UserError, match=r"cannot be written \(part of its path is a file\); free") as caught:
        write(path)
    one_sentence(caught, path)


@pytest.mark.parametrize("write", [lambda path: write_json(path, {}), lambda path: JsonlLog(path)])
def test_a_folder_with_the_name_of_the_file_is_one_sentence(tmp_path, write):
    path = tmp_path / "value.json"
    path.mkdir()
    with pytest.raises(UserError, match="cannot be written") as caught:
        write(path)
    one_sentence(caught, path)
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    # The temporary name is a link to a device that is always full.
    with atomic_write(tmp_path / "probe") as temporary:
        temporary.touch()
    (path.with_name(temporary.name.replace("probe", path.name))).symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device") as caught:
        write_json(path, 2)
    one_sentence(caught, path)
    assert read_json(path) == 1
    assert sorted(os.listdir(tmp_path)) == ["probe", "value.json"]


@pytest.mark.parametrize("content", ["", "{", "not json", '{"a": 1} x', b"\xff\xfe"])
def test_broken_json_is_one_sentence(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="not readable as JSON") as caught:
        read_json(path)
    one_sentence(caught, path)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_file_is_one_sentence(tmp_path, read):
    with pytest.raises(UserError, match="no such file") as caught:
        read(tmp_path / "none")
    one_sentence(caught, tmp_path / "none")


def test_remove(tmp_path):
    path = tmp_path / "value"
    path.touch()
    remove(path)
    remove(path)
    assert not path.exists()
    path.mkdir()
    with pytest.raises(UserError) as caught:
        remove(path)
    one_sentence(caught, path)


# Logs ---------------------------------------------------------------------------------------------------


def test_a_log_continues_where_it_ended(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    log = JsonlLog(path)
    assert log.entries == []
    log.append(ODD_VALUES)
    log.close()
    log = JsonlLog(path)
    assert log.entries == [ODD_VALUES]
    log.append({"n": 2})
    log.close()
    assert read_jsonl(path) == [ODD_VALUES, {"n": 2}]


def test_every_entry_is_in_the_file_immediately(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    for n in range(3):
        log.append({"n": n})
        assert len(read_jsonl(log.path)) == n + 1


@pytest.mark.parametrize("whole", [0, 2])
@pytest.mark.parametrize("cut", range(1, len('{"n":2,"t":"∑"}'.encode())))
def test_a_torn_last_line_is_dropped_with_a_message_wherever_it_was_torn(tmp_path, capsys, whole, cut):
    path = tmp_path / "log.jsonl"
    lines = [f'{{"n":{n},"t":"∑"}}\n'.encode() for n in range(3)]
    path.write_bytes(b"".join(lines[:whole]) + lines[2][:cut])
    log = JsonlLog(path)
    assert [entry["n"] for entry in log.entries] == [0, 1][:whole]
    assert f"{path}: the last line was cut off by a crash ({cut} bytes); dropped" in capsys.readouterr().out
    log.append({"n": 9})
    log.close()
    assert [entry["n"] for entry in read_jsonl(path)] == [*[0, 1][:whole], 9]


def test_a_line_without_a_newline_is_torn_even_if_it_is_valid_json(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n":1}\n{"n":2}')
    assert JsonlLog(path).entries == [{"n": 1}]
    assert "cut off by a crash" in capsys.readouterr().out


def test_a_complete_log_is_not_modified_and_nothing_is_printed(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n":1}\n{"n":2}\n')
    assert len(JsonlLog(path).entries) == 2
    assert path.read_text() == '{"n":1}\n{"n":2}\n' and capsys.readouterr().out == ""


def test_damage_before_the_last_line_is_not_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n":1}\n{"n":\n{"n":3}\n')
    log = JsonlLog(path)
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not JSON"):
        assert log.entries


def test_a_line_that_is_not_unicode_is_one_sentence(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":"\xff"}\n')
    log = JsonlLog(path)
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not UTF-8") as caught:
        assert log.entries
    one_sentence(caught, path)


def test_every_entry_can_be_read_at_its_offset_also_while_the_log_grows(tmp_path):
    path = tmp_path / "log.jsonl"
    values = [ODD_VALUES | {"n": n, "text": "∑" * n} for n in range(30)]
    log = JsonlLog(path)
    offsets = {}
    for n, value in enumerate(values[:20]):
        offsets[n] = log.append(value)
        assert log.read(offsets[n // 2]) == values[n // 2]
    log.close()
    log = JsonlLog(path)
    assert dict(enumerate(offset for _, offset, _ in log.lines())) == offsets
    for n, value in enumerate(values[20:], start=20):
        offsets[n] = log.append(value)
    assert [log.read(offset) for offset in offsets.values()] == values
    assert log.entries == values[:20]  # what it held when it was opened
    log.close()
    assert log.read(offsets[25]) == values[25]


def test_a_torn_line_longer_than_a_block_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n":1}\n' + b'{"n":"' + b"x" * 300_000)
    assert JsonlLog(path).entries == [{"n": 1}]
    path.write_bytes(b"x" * 300_000)
    assert JsonlLog(path).entries == [] and path.read_bytes() == b""


def test_a_log_on_a_full_disk_is_one_sentence(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    log.append({"n": 1})
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())  # from here on the disk is full
    os.close(full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        log.append({"n": 2})
    one_sentence(caught, log.path)
    assert read_jsonl(log.path) == [{"n": 1}]


def test_a_log_that_was_cut_off_by_a_full_disk_continues(tmp_path):
    """A full disk leaves a torn line, and the next run repairs it."""
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"n": 1}) + "\n" + '{"n": 2, "text": "aaa')
    log = JsonlLog(path)
    log.append({"n": 2})
    log.close()
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


def test_a_broken_line_is_named(tmp_path):
    with pytest.raises(UserError, match=r"x\.jsonl, line 3: not JSON"):
        list(parse_jsonl('{"n":1}\n\n{"n":\n', tmp_path / "x.jsonl"))
