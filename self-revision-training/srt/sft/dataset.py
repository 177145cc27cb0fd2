"""Stage files -> the exact token ids and supervised positions that SFT trains on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.collect.split import stage_record
from srt.common.errors import UserError
from srt.common.files import read_json
from srt.contract.layout import Layout, TokenSequence
from srt.contract.records import unpack_ids

PARTS = ("x", "y_init", "p_r", "y_revised")
IDS = ("y_init_ids", "y_revised_ids")


@dataclass(frozen=True)
class StageSequences:
    """The sequences of one stage.

    `record_indices`: the record of each sequence. `too_long`: record index -> length in tokens, for the records
    above the length limit. `num_tokenized`: how many sequences were tokenized from text instead of built from
    stored ids. `num_edited`: how many of those because their text is no longer that of their ids.
    """

    sequences: list[TokenSequence]
    record_indices: list[int]
    too_long: dict[int, int]
    num_tokenized: int
    num_edited: int


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
        for name in (*PARTS, *IDS):
            if not isinstance(record.get(name, ""), str):
                found = type(record[name]).__name__
                raise UserError(f"{path}, record {index + 1}: {name} is a {found}; expected text")
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
    num_tokenized = num_edited = 0
    for index, record in enumerate(records):
        r = _reward(record, layout, index)
        stored = _stored_ids(record, index) if use_stored_ids else None
        edited = stored is not None and not _are_of_their_text(stored, record, layout)
        num_edited += edited
        if not edited:
            _refuse_edited_copies(record, index)
        if stored is not None and not edited:
            y_init, y_revised = stored
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
    return StageSequences(sequences, record_indices, too_long, num_tokenized, num_edited)


def _stored_ids(record: dict[str, Any], index: int) -> tuple[list[int], list[int]] | None:
    if not all(name in record for name in IDS):
        return None
    try:
        return unpack_ids(record["y_init_ids"]), unpack_ids(record["y_revised_ids"])
    except UserError as error:
        raise UserError(f"record {index + 1}: {error}") from None


def _are_of_their_text(stored: tuple[list[int], list[int]], record: dict[str, Any], layout: Layout) -> bool:
    """Whether nobody has edited the text since its ids were sampled."""
    return all(
        layout.decode(ids) == record[name] for ids, name in zip(stored, ("y_init", "y_revised"), strict=True)
    )


def _refuse_edited_copies(record: dict[str, Any], index: int) -> None:
    """Raises UserError for a prompt or completion that does not follow from the parts, which are trained on."""
    for name in ("prompt", "completion"):
        if name in record and record[name] not in [stage_record(record, stage)[name] for stage in (1, 2)]:
            raise UserError(
                f"record {index + 1}: its {name} was edited, and SFT reads {', '.join(PARTS)} instead; "
                f"edit those, or restore the {name}"
            )


def _reward(record: dict[str, Any], layout: Layout, index: int) -> int:
    for r in (0, 1):
        if record["p_r"] == layout.phrases.text(r):
            return r
    raise UserError(
        f"record {index + 1}: its control phrase {record['p_r']!r} is not in the set '{layout.phrases.name}'; "
        "set CONTROL_PHRASES to the set the data was collected with"
    )
