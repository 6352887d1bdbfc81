"""Which column goes in, which should come out, which names the row, which groups rows: a guess, with its reasons.

By name first, else by length; what cannot be decided is an error that lists the columns, never a coin toss.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from rlft_core.errors import DataError
from rlft_core.plan.inspect_rows import Column, Table

# In order of preference: of two names in one file the earlier one is meant.
INPUT_NAMES = (
    "input", "prompt", "question", "query", "q", "document", "article", "source", "src", "description", "instruction",
    "dialogue", "dialog", "conversation", "passage", "context", "content", "body", "abstract", "post", "review",
    "message", "sentence", "text",
)  # fmt: skip
OUTPUT_NAMES = (
    "output", "completion", "answer", "summary", "target", "response", "synopsis", "highlights", "reference", "tldr",
    "headline", "reply", "translation", "paraphrase", "simplified", "caption", "title", "label", "category", "class",
    "text",
)  # fmt: skip
# What belongs into the prompt beside the input, before or after it.
BEFORE_INPUT = ("instruction", "context", "passage")
AFTER_INPUT = ("input",)
ID_NAMES = ("id", "uid", "uuid", "guid", "key", "name", "row_id", "example_id", "sample_id")
FAMILY_NAMES = ("family", "group", "group_id", "source_id", "document_id", "doc_id", "cluster", "cluster_id")
_LONGER = 1.2  # two columns whose mean lengths are nearer than this have no direction
_CLEARLY_LONGER = 2.0
_ID_CHARS = 64
_FAMILIES = 10


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns chosen, and the prompt template that they make.

    `others` are text columns that are left over; the reasons are words after a column's name."""

    input: str
    output: str
    id: str | None
    family: str | None
    others: tuple[str, ...]
    input_reason: str
    output_reason: str
    template: str


def choose_columns(table: Table, *, input_field: str | None = None, output_field: str | None = None) -> Columns:
    """Choose the columns of a file; what the person names is taken.

    Raises:
        DataError: a column that is not there or holds no text, no text columns, or no way to decide.
    """
    given = {"--input": input_field, "--output": output_field}
    for option, name in given.items():
        if name is not None:
            _check_given(table, option, name)
    if input_field is not None and input_field == output_field:
        raise DataError(f"--input and --output are both '{input_field}'. Name two columns: {table.listed}.")
    texts = [column for column in table.columns.values() if column.is_text and column.num_distinct > 1]
    reasons = ["--input", "--output"]
    if input_field is None:
        input_field = _by_name(texts, INPUT_NAMES, taken=output_field, distinct_share=0.5)
        reasons[0] = "by its name"
    if output_field is None:
        output_field = _by_name(texts, OUTPUT_NAMES, taken=input_field)
        reasons[1] = "by its name"
    if input_field is None or output_field is None:
        by_length = _by_length(table, texts, input_field, output_field)
        reasons = [
            reason if known is not None else "by its length"
            for reason, known in zip(reasons, (input_field, output_field), strict=True)
        ]
        input_field, output_field = by_length
    id_field = _id_field(table, {input_field, output_field})
    family = _family_field(table, {input_field, output_field, id_field})
    partner = _partner(table, input_field, output_field)
    used = {input_field, output_field, id_field, family, partner}
    others = tuple(column.name for column in texts if column.name not in used and column.numeric_share <= 0.5)
    template = _template(table, input_field, partner)
    return Columns(input_field, output_field, id_field, family, others, reasons[0], reasons[1], template)


def placeholder(name: str, input_field: str) -> str:
    """A column in a template. `{input}` is the row's own input, whatever its column is called."""
    return f"{{column.{name}}}" if name in ("input", "output") and name != input_field else f"{{{name}}}"


def _partner(table: Table, input_field: str, output_field: str) -> str | None:
    """A column that the input is not complete without: the instruction or passage it goes with."""
    if _normal(input_field) not in ("input", "question", "query", "q", "prompt", "instruction"):
        return None
    for wanted in (*BEFORE_INPUT, *AFTER_INPUT):
        for column in table.columns.values():
            free = column.name not in (input_field, output_field) and column.fills_templates and column.num_distinct > 1
            if _normal(column.name) == wanted and free and column.num_texts >= 0.1 * column.num_rows:
                return column.name
    return None


def _template(table: Table, input_field: str, partner: str | None) -> str:
    usable = table.columns[input_field].fills_templates or table.columns[input_field].name.isidentifier()
    own = f"{{{input_field}}}" if usable and input_field != "output" else "{input}"
    if partner is None:
        return own
    other = placeholder(partner, input_field)
    return f"{own}\n\n{other}" if _normal(partner) in AFTER_INPUT else f"{other}\n\n{own}"


def _check_given(table: Table, option: str, name: str) -> None:
    if name not in table.columns:
        near = difflib.get_close_matches(name, list(table.columns), n=1, cutoff=0.5)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        raise DataError(f"{option} {name}: {table.path} has no such column.{meant} It has {table.listed}.")
    column = table.columns[name]
    if column.num_texts == 0:
        raise DataError(f"{option} {name}: {table.path} has no text there: {column.described}. {_way_out(column)}")


def _way_out(column: Column) -> str:
    if "lists" in column.other or "objects" in column.other:
        return (
            "If these are conversations, write one file with two text columns: what was said before the last turn, and "
            "the last turn."
        )
    if column.num_other:
        return 'Write the values as text, in quotes: "42".'
    return "Name another column."


def _normal(name: str) -> str:
    """A column's name without case and punctuation, and without a `_text` that adds nothing."""
    plain = "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    return plain.removesuffix("_text") or plain


def _by_name(
    texts: list[Column], names: tuple[str, ...], *, taken: str | None, distinct_share: float = 0.0
) -> str | None:
    """The column with the most telling name; a column that says nearly always the same is no input."""
    for wanted in names:
        for column in texts:
            distinct = column.num_distinct >= distinct_share * column.num_texts
            if _normal(column.name) == wanted and column.name != taken and distinct:
                return column.name
    return None


def _by_length(table: Table, texts: list[Column], known_input: str | None, known_output: str | None) -> tuple[str, str]:
    """The longest text goes in and the next shorter comes out, when lengths are clear about it."""
    known = {known_input, known_output}
    free = [column for column in texts if column.name not in known and not _looks_like_key(column)]
    free.sort(key=lambda column: column.mean_chars, reverse=True)
    needed = [known_input, known_output].count(None)
    if len(free) < needed:
        raise DataError(_undecided(table, len(texts)))
    if len(free) > needed and free[needed - 1].mean_chars < _CLEARLY_LONGER * free[needed].mean_chars:
        raise DataError(_undecided(table, len(texts)))
    if needed == 2:
        if free[0].mean_chars < _LONGER * free[1].mean_chars:
            raise DataError(_undecided(table, len(texts)))
        return free[0].name, free[1].name
    return known_input or free[0].name, known_output or free[0].name


def _looks_like_key(column: Column) -> bool:
    """Numbers, and short values that are all different: names of rows, not text."""
    unique = column.num_distinct == column.num_texts
    return column.numeric_share > 0.5 or (_normal(column.name) in ID_NAMES and unique)


def _undecided(table: Table, num_texts: int) -> str:
    lists = [column for column in table.columns.values() if column.num_other and "lists" in column.other]
    if num_texts < 2 and lists:
        return (
            f"{table.path}: column '{lists[0].name}' holds lists, and a row needs two texts: one that goes in and one that "
            f"should come out. {_way_out(lists[0])}"
        )
    if num_texts < 2:
        return (
            f"{table.path} does not have two columns of text, one that goes in and one that should come out. It has "
            f"{table.listed}."
        )
    return (
        f"{table.path}: neither names nor lengths say which column goes in and which should come out. Say it with "
        f"--input FIELD and --output FIELD. There are {table.listed}."
    )


def _id_field(table: Table, used: set[str]) -> str | None:
    for wanted in ID_NAMES:
        for column in table.columns.values():
            complete = column.num_distinct == column.num_rows and column.mean_chars <= _ID_CHARS
            if _normal(column.name) == wanted and column.name not in used and complete:
                return column.name
    return None


def _family_field(table: Table, used: set[str | None]) -> str | None:
    """A column that groups rows: named so, filled everywhere, with enough groups to share among three sides."""
    for wanted in FAMILY_NAMES:
        for column in table.columns.values():
            groups = column.num_missing == 0 and _FAMILIES <= column.num_distinct < column.num_rows
            if (
                _normal(column.name) == wanted
                and column.name not in used
                and groups
                and column.other in ("", "numbers")
            ):
                return column.name
    return None
