"""Raw records of a local .json, .jsonl or .parquet file, or of a dataset on the Hugging Face hub."""

import codecs
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError, reason_of
from srt.common.progress import heartbeat
from srt.problems.encodings import HugeNumber, not_utf8, parse_int, why_not_text

LOCAL_SUFFIXES = (".json", ".jsonl", ".parquet")
Record = dict[str, Any]
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RecordSource:
    """`records`: (place, record) pairs; a line that is not a record yields the reason (str) instead.

    `revision`: the commit of a hub dataset, if it is known.
    """

    records: Iterator[tuple[str, Record | str]]
    revision: str | None = None


def read_records(dataset: str, subset: str | None, split: str, fields: Collection[str]) -> RecordSource:
    """The records of a file or of a hub dataset.

    `fields`: what the caller reads; a hub dataset is restricted to these. Raises UserError when the dataset as a
    whole cannot be read.
    """
    path = Path(dataset)
    if path.suffix not in LOCAL_SUFFIXES:
        if path.is_file():
            raise UserError(f"{dataset}: {why_not_text(path) or _expected_name(path)}")
        return read_hub(dataset, subset, split, fields)
    if path.is_dir():
        raise UserError(f"{dataset}: a folder; expected a file")
    try:
        if not path.is_file():
            raise UserError(f"{dataset}: no such data file")
        if path.suffix != ".parquet" and (reason := why_not_text(path)):
            raise UserError(f"{dataset}: {reason}")
    except OSError as error:
        raise UserError(f"{dataset}: cannot be read ({error.strerror})") from None
    read = {".json": _from_json, ".jsonl": _from_jsonl, ".parquet": _from_parquet}[path.suffix]
    return RecordSource(read(path, dataset))


def _expected_name(path: Path) -> str:
    found = path.suffix or "no suffix"
    return f"expected a name that ends with {', '.join(LOCAL_SUFFIXES)}, found {found}; rename or convert it"


def _from_json(path: Path, dataset: str) -> Iterator[tuple[str, Record | str]]:
    data = path.read_bytes()
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_int=parse_int)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{dataset}, line {line}: {not_utf8(error)}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{dataset}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{dataset}: not readable as JSON (nested too deeply)") from None
    if not isinstance(content, list):
        raise UserError(f"{dataset}: expected a list of records, found {type(content).__name__}")
    for number, record in enumerate(content, start=1):
        yield f"{dataset}, record {number}", _object_or_reason(record)


def _from_jsonl(path: Path, dataset: str) -> Iterator[tuple[str, Record | str]]:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # Windows tools may start it with that
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _object_or_reason(json.loads(line.decode("utf-8"), parse_int=parse_int))
        except UnicodeDecodeError as error:
            record = not_utf8(error)
        except json.JSONDecodeError as error:
            record = f"not JSON ({error.msg})"
        except RecursionError:
            record = "not readable as JSON (nested too deeply)"
        yield f"{dataset}, line {number}", record


def _from_parquet(path: Path, dataset: str) -> Iterator[tuple[str, Record]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{dataset}: not readable as parquet ({reason_of(error)})") from error
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"{dataset}, row {number}", record


def read_hub(
    dataset: str,
    subset: str | None,
    split: str,
    fields: Collection[str],
    revision: str | None = None,
    files: Sequence[str] = (),
    name: str | None = None,
) -> RecordSource:
    """The records of a hub dataset, restricted to the columns in `fields`.

    `revision`: the commit (None: the newest). `files`: JSONL files of its repository, for one whose format
    `datasets` does not recognize. `name`: what the user called it, if that is not its id. Raises UserError when it
    cannot be loaded.
    """
    import datasets

    try:
        with heartbeat(f"reading {dataset}"):
            if files:
                paths = [f"hf://datasets/{dataset}@{revision or 'main'}/{file}" for file in files]
                loaded: Any = datasets.load_dataset("json", data_files=paths, split=split)
            else:
                loaded = datasets.load_dataset(dataset, subset, split=split, revision=revision)
    except Exception as error:  # the hub client raises many types, and they all mean the same to the user
        reason = f"{type(error).__name__}: {reason_of(error)}"
        if name:
            raise UserError(
                f"{name}: {dataset} could not be loaded from the Hugging Face hub at revision {revision} "
                f"({reason}); without access to the hub, set DATASET to a local file"
            ) from error
        raise UserError(
            f"{dataset}: neither a local file ({', '.join(LOCAL_SUFFIXES)}) nor a dataset that could be "
            f"loaded from the Hugging Face hub ({reason}); check the name and the network, or name a local file"
        ) from error
    # The other columns, solutions and model outputs, may be gigabytes.
    used = [name for name in loaded.column_names if name in fields]
    rows = enumerate(loaded.select_columns(used) if used else loaded, start=1)
    places = ((f"{dataset}, {split} row {number}", row) for number, row in rows)
    return RecordSource(places, revision or _commit_of(loaded))


def _commit_of(loaded: Any) -> str | None:
    """The hub's commit, by which `datasets` names its cache folder: <name>/<subset>/<version>/<commit>/<file>."""
    folders = (Path(file["filename"]).parent.name for file in loaded.cache_files)
    return next((folder for folder in folders if _COMMIT.fullmatch(folder)), None)


def _object_or_reason(record: object) -> Record | str:
    if not isinstance(record, dict):
        return f"expected a JSON object, found {type(record).__name__}"
    huge = next((name for name, value in record.items() if isinstance(value, HugeNumber)), None)
    return record if huge is None else f"{huge}: a number of {record[huge].digits} digits"
