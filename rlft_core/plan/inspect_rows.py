"""What stands in a person's data file, column by column, before anybody has said which columns matter.

Reads with the readers that a run uses, so a file that is refused here would be refused there. It counts; which columns
are meant is guessed in `choose_columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlft_core.data.load import HUB_PREFIX, find_file
from rlft_core.data.readers import READERS, Record
from rlft_core.errors import DataError
from rlft_core.types import Row


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how many rows have a text in it, nothing (absent, null, blank), or something that is no text.

    `num_null` are those with nothing that is not even blank text.
    `other` says what that something is ("lists"). `num_distinct` and the means are over texts and whole numbers;
    `numeric_share` is the share of texts that are numbers, which CSV cannot tell apart."""

    name: str
    num_rows: int
    num_texts: int
    num_missing: int
    num_null: int
    num_other: int
    other: str
    num_distinct: int
    mean_chars: float
    numeric_share: float

    @property
    def is_text(self) -> bool:
        """Whether most rows have a text here."""
        return self.num_texts >= 0.8 * self.num_rows

    @property
    def fills_templates(self) -> bool:
        """Whether every row has a text here, blank or not, under a name that a template can hold."""
        named = not set("{}") & set(self.name) and not self.name.startswith("column.")
        return named and self.num_null == 0 and self.num_other == 0

    @property
    def described(self) -> str:
        """The column in words, for messages."""
        told = []
        if self.num_texts:
            told.append(f"text of {self.mean_chars:.0f} characters, {self.num_distinct:,} different")
        if self.num_other:
            told.append(f"{self.other} in {self.num_other:,} rows")
        if self.num_missing:
            told.append(f"nothing in {self.num_missing:,} rows")
        return f"'{self.name}' ({'; '.join(told)})"


@dataclass(frozen=True, slots=True)
class Table:
    """A data file: its records in their order, and its columns."""

    path: Path
    records: tuple[Record, ...]
    columns: dict[str, Column]

    @property
    def listed(self) -> str:
        """All columns in words, for messages."""
        return ", ".join(column.described for column in self.columns.values())


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that a run would refuse, and why."""

    where: str
    why: str


def read_table(source: str) -> Table:
    """Read a data file, relative to the current folder.

    Raises:
        DataError: as the readers do; or there is no row, or only one.
    """
    if source.startswith(HUB_PREFIX):
        raise DataError(
            f"{source}: rlft init looks at files. Save the data set as .jsonl or .parquet and give that file."
        )
    path = find_file(source)
    records = tuple(READERS[path.suffix.lower()](path))
    if not records:
        raise DataError(f"{path} holds no rows. Give a file with at least one row of data.")
    if len(records) == 1:
        raise DataError(
            f"{path} holds a single row. A model cannot be tuned on one example and judged by another when there is no "
            "other; give some tens of rows to try it out, hundreds for a result."
        )
    names = dict.fromkeys(name for record in records for name in record.values)
    columns = {name: _column(name, [record.values.get(name) for record in records]) for name in names}
    return Table(path, records, columns)


def usable_rows(table: Table, *, input_field: str, output_field: str) -> tuple[list[Record], list[Unusable]]:
    """The records whose input and output are texts with something in them, and what is wrong with the others."""
    good: list[Record] = []
    bad: list[Unusable] = []
    for record in table.records:
        faults = (_fault(record, field) for field in (input_field, output_field))
        fault = next((why for why in faults if why is not None), None)
        if fault is None:
            good.append(record)
        else:
            bad.append(Unusable(record.where, fault))
    return good, bad


def as_rows(records: Iterable[Record], *, stem: str, input_field: str, output_field: str) -> list[Row]:
    """Records that are known to be usable, as rows."""
    return [
        Row(
            id=f"{stem}:{record.number}",
            input=record.values[input_field],
            output=record.values[output_field],
            fields=record.values,
        )
        for record in records
    ]


def _fault(record: Record, field: str) -> str | None:
    value = record.values.get(field)
    if _is_missing(value):
        return f"'{field}' is blank"
    return None if isinstance(value, str) else f"'{field}' is {_kind(value)}, not text"


def _column(name: str, values: list[object]) -> Column:
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    others = [value for value in values if not isinstance(value, str) and value is not None]
    numbers = [str(value) for value in others if isinstance(value, int) and not isinstance(value, bool)]
    kinds = dict.fromkeys(_kinds(value) for value in others)
    return Column(
        name=name,
        num_rows=len(values),
        num_texts=len(texts),
        num_missing=sum(_is_missing(value) for value in values),
        num_null=sum(value is None for value in values),
        num_other=len(others),
        other=" and ".join(kinds),
        num_distinct=len({*texts, *numbers}),
        mean_chars=sum(map(len, [*texts, *numbers])) / max(1, len(texts) + len(numbers)),
        numeric_share=sum(_is_number(text) for text in texts) / max(1, len(texts)),
    )


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else type(value).__name__


def _kinds(value: object) -> str:
    if isinstance(value, bool):
        return "truth values"
    if isinstance(value, int | float):
        return "numbers"
    if isinstance(value, list):
        return "lists"
    return "objects" if isinstance(value, dict) else type(value).__name__
