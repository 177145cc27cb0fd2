"""Stage files -> the exact token ids and supervised positions that SFT trains on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import read_json
from srt.contract.layout import Layout, TokenSequence
from srt.contract.records import unpack_ids

PARTS = ("x", "y_init", "p_r", "y_revised")


@dataclass(frozen=True)
class StageSequences:
    """The sequences of one stage.

    `record_indices`: the record of each sequence. `too_long`: record index -> length in tokens, for the records
    above the length limit. `num_tokenized`: how many sequences were tokenized from text instead of built from
    stored ids.
    """

    sequences: list[TokenSequence]
    record_indices: list[int]
    too_long: dict[int, int]
    num_tokenized: int


def load_stage(path: Path) -> list[dict[str, Any]]:
    """The records of a stage file. Raises UserError if it is missing or empty, or if a record lacks a part."""
    if not path.is_file():
        raise UserError(f"{path}: no such stage file; run run_srt_data.sh first, or set DATA_PREFIX")
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: expected a list with at least one tuple; run run_srt_data.sh again")
    for index, record in enumerate(records):
        missing = [name for name in PARTS if not isinstance(record, dict) or name not in record]
        if missing:
            raise UserError(f"{path}, record {index + 1}: missing {', '.join(missing)}")
    return records


def build_sequences(
    records: list[dict[str, Any]], layout: Layout, stage: int, max_length: int, use_stored_ids: bool
) -> StageSequences:
    """The sequences of one stage, in the order of the records.

    `use_stored_ids`: the stored ids come from the layout's tokenizer. Otherwise, and for records without ids, the
    parts are tokenized one by one, which may not reproduce the sampled ids.
    Raises UserError for a control phrase that is not in the layout's set.
    """
    sequences: list[TokenSequence] = []
    record_indices: list[int] = []
    too_long: dict[int, int] = {}
    num_tokenized = 0
    for index, record in enumerate(records):
        r = _reward(record, layout, index)
        if use_stored_ids and "y_init_ids" in record and "y_revised_ids" in record:
            y_init, y_revised = unpack_ids(record["y_init_ids"]), unpack_ids(record["y_revised_ids"])
        else:
            y_init, y_revised = (
                layout.tokenizer.encode(record[part], add_special_tokens=False) for part in ("y_init", "y_revised")
            )
            num_tokenized += 1
        sequence = layout.sft_sequence(stage, layout.chat(record["x"]), y_init, r, y_revised)
        if len(sequence.ids) > max_length:
            too_long[index] = len(sequence.ids)
        else:
            sequences.append(sequence)
            record_indices.append(index)
    return StageSequences(sequences, record_indices, too_long, num_tokenized)


def _reward(record: dict[str, Any], layout: Layout, index: int) -> int:
    for r in (0, 1):
        if record["p_r"] == layout.phrases.text(r):
            return r
    raise UserError(
        f"record {index + 1}: its control phrase {record['p_r']!r} is not in the set '{layout.phrases.name}'; "
        "set CONTROL_PHRASES to the set the data was collected with"
    )
