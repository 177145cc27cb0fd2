"""Problem files for the tests of srt.problems."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

RECORDS = [
    {"id": "a", "problem": "1 + 1?", "answer": "2", "source": "school"},
    {"id": "b", "problem": "2 + 2?", "answer": "4", "source": "school"},
    {"id": "c", "problem": "3 + 3?", "answer": "6", "source": "school"},
]
EXAMPLES = [{"input": "1", "output": "2"}]  # of a code problem


def write(path: Path, records: list) -> str:
    """Write the records in the format that the suffix names; returns the path as a knob's value."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
