"""Stage files -> the exact ids and masks that SFT trains on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import read_json
from srt.contract.layout import Layout, TokenSequence
from srt.contract.records import unpack_ids

PARTS = ("x", "y_init", "p_r", "y_revised")


@dataclass(frozen=True)
class StageRows:
    """`kept`: the record of each row; `set_aside`: those above the length limit, with their length in tokens;
    `retokenized`: how many came without ids."""

    rows: list[TokenSequence]
    kept: list[int]
    set_aside: dict[int, int]
    retokenized: int

    @property
    def too_long(self) -> int:
        return len(self.set_aside)


def load_stage(path: Path) -> list[dict[str, Any]]:
    """The records of a stage file. Raises UserError when it is missing, empty, or lacks a part of a tuple."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such stage file; run run_srt_data.sh first, or set DATA_PREFIX")
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: a list with at least one tuple is expected; run run_srt_data.sh again")
    for index, record in enumerate(records):
        missing = [name for name in PARTS if not isinstance(record, dict) or name not in record]
        if missing:
            raise UserError(f"{path}, record {index + 1}: it lacks {', '.join(missing)}")
    return records


def build_rows(
    records: list[dict[str, Any]], layout: Layout, stage: int, max_length: int, ids_fit: bool
) -> StageRows:
    """The rows of one stage, in the records' order.

    `ids_fit`: the ids in the records come from this tokenizer. Records without usable ids are tokenised part
    by part, which need not give the ids that were sampled.
    Raises UserError for a control phrase that is not of the layout's set.
    """
    rows: list[TokenSequence] = []
    kept: list[int] = []
    set_aside: dict[int, int] = {}
    retokenized = 0
    for index, record in enumerate(records):
        r = _reward(record, layout, index)
        if ids_fit and "y_init_ids" in record and "y_revised_ids" in record:
            y_init, y_revised = unpack_ids(record["y_init_ids"]), unpack_ids(record["y_revised_ids"])
        else:
            y_init, y_revised = (
                layout.tokenizer.encode(record[part], add_special_tokens=False) for part in ("y_init", "y_revised")
            )
            retokenized += 1
        row = layout.sft_sequence(stage, layout.chat(record["x"]), y_init, r, y_revised)
        if len(row.ids) > max_length:
            set_aside[index] = len(row.ids)
        else:
            rows.append(row)
            kept.append(index)
    return StageRows(rows, kept, set_aside, retokenized)


def _reward(record: dict[str, Any], layout: Layout, index: int) -> int:
    for r in (0, 1):
        if record["p_r"] == layout.phrases.text(r):
            return r
    raise UserError(
        f"record {index + 1}: its control phrase {record['p_r']!r} is not of the set '{layout.phrases.name}'; "
        "set CONTROL_PHRASES to the set that the data was made with"
    )
