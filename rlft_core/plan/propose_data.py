"""The `data` section of a proposed recipe: instruction, sides of the split, and token limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlft_core.data import Splits, check_disjoint, load_rows, split_rows
from rlft_core.data.readers import READERS
from rlft_core.errors import DataError
from rlft_core.plan.choose_columns import Columns
from rlft_core.plan.text_shape import OutputShape, TokenLengths, quantile
from rlft_core.types import Row

_HELD_OUT_SHARE = 0.1
_MOST_HELD_OUT = 300
_LEAST_HELD_OUT = 30
_FEWEST_INPUTS = 3
_SHORT_LABELS_CHARS = 200
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_GENERIC = {
    "input", "prompt", "question", "query", "instruction", "text", "source", "src", "message", "output", "completion",
    "answer", "response", "target", "reference", "reply", "context", "content", "label", "category", "class",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sides:
    """`data.validation` and `data.test`, how many rows are left to train on, rows of other files, what to know of them."""

    validation: str | int
    test: str | int
    num_train: int
    from_files: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits. `num_left_out` counts measured rows beyond them; `skip` says that such rows may be left out."""

    max_prompt: int
    completion: int
    max_length: int
    skip: bool
    num_left_out: int
    prompt_reason: str


def instruction_for(columns: Columns, shape: OutputShape) -> str:
    """A system message from the columns' names and the outputs' lengths: neutral, and meant to be improved."""
    if shape.labels and sum(map(len, shape.labels)) <= _SHORT_LABELS_CHARS:
        return f"Answer with one of: {', '.join(sorted(shape.labels))}."
    longest, most = shape.lengths[-1], shape.length(0.95)
    most = longest if longest <= 1.3 * most else most
    length = f"at most {shape.counted(most)}"
    one_line = "one line, " if shape.single_line_share == 1 and shape.length(0.5) > 1 and most <= 40 else ""
    names = [" ".join(name.replace("_", " ").split()) for name in (columns.input, columns.output)]
    if any(name.lower() in _GENERIC or not name.replace(" ", "").isalpha() for name in names):
        return f"Answer in {one_line}{length}."
    return f"Write the {names[1]} for this {names[0]} ({one_line}{length})."


def sides_of(rows: Sequence[Row], columns: Columns, path: Path, source: str) -> Sides:
    """Files named validation and test beside one named train, else a share of the rows.

    Raises:
        DataError: too few different inputs to have three sides.
    """
    files, notes = _files_beside(path, rows, columns)
    wanted = [side for side in ("validation", "test") if side not in files]
    num_inputs = len({" ".join(row.input.lower().split()) for row in rows})
    if num_inputs < (_FEWEST_INPUTS if wanted else 2):
        raise DataError(
            f"{path} has {len(rows)} usable rows with {num_inputs} different inputs. One side of the data is for training, "
            f"one for validation, one for the test, so at least {_FEWEST_INPUTS} different inputs are needed; give some tens "
            "of rows to try it out, hundreds for a result."
        )
    share = round(_HELD_OUT_SHARE * num_inputs)
    size = max(1, min(_MOST_HELD_OUT, max(share, min(_LEAST_HELD_OUT, num_inputs // 5))))
    sizes = {side: size if side in wanted else 0 for side in ("validation", "test")}
    splits, size = _split(rows, sizes, columns.family)
    given = {side: str(Path(source).with_name(file.name)) for side, (file, _) in files.items()}
    return Sides(
        validation=given.get("validation", size),
        test=given.get("test", size),
        num_train=len(splits.train),
        from_files=tuple(row for _, found in files.values() for row in found),
        notes=tuple(notes),
    )


def _split(rows: Sequence[Row], sizes: dict[str, int], family: str | None) -> tuple[Splits, int]:
    """The split with these sizes, or with larger ones where a family fits into none. Also the size it took."""
    for factor in (1, 2, 3):
        larger = {side: factor * size for side, size in sizes.items()}
        try:
            splits = split_rows(rows, **larger, seed=0, family_field=family)
        except DataError:
            if factor == 3:
                raise
        else:
            return splits, max(larger.values())
    raise AssertionError("the last size returns or raises")


def limits_of(lengths: TokenLengths, context: int | None) -> Limits:
    """Room for the 99th percentile, and for the longest where it is not far above; the rest may be left out."""
    prompts, outputs = sorted(lengths.prompts), sorted(lengths.outputs)
    room = context or 1 << 30
    usual, longest = quantile(prompts, 0.99), prompts[-1]
    completion = max(16, _up(1.5 * quantile(outputs, 0.99), 8))
    if usual + completion > room:  # a short context is better spent on prompts than on a margin
        completion = max(16, _up(quantile(outputs, 0.99), 8))
    completion = min(completion, max(8, room // 2 // 8 * 8))
    max_prompt = _up(longest if longest <= 1.5 * usual else usual, 32)
    max_prompt = min(max_prompt, room - completion)
    pairs = sorted(prompt + output for prompt, output in zip(lengths.prompts, lengths.outputs, strict=True))
    max_length = max_prompt + completion
    if pairs[-1] <= 1.5 * max_length:
        max_length = max(max_length, pairs[-1])
    max_length = min(_up(max_length, 32), room)
    left_out = lengths.num_left_out(max_prompt, max_length)
    skip = left_out > 0 or not lengths.complete or not lengths.exact
    told = "estimated" if not lengths.exact else f"99 % of the prompts have at most {usual:,}, the longest {longest:,}"
    return Limits(max_prompt, completion, max_length, skip, left_out, told)


def _up(value: float, step: int) -> int:
    """The next multiple of `step`."""
    return math.ceil(value / step) * step


def _files_beside(
    path: Path, rows: Sequence[Row], columns: Columns
) -> tuple[dict[str, tuple[Path, tuple[Row, ...]]], list[str]]:
    """Files called validation and test beside a file called train, with their rows; and why one was not taken."""
    found: dict[str, tuple[Path, tuple[Row, ...]]] = {}
    notes: list[str] = []
    for side, names in (("validation", _VALIDATION_NAMES), ("test", ("test",))) if path.stem.lower() == "train" else ():
        files = (path.with_name(name + suffix) for name in names for suffix in (path.suffix, *READERS))
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            continue
        try:
            others = tuple(_load(file, columns))
            validation = found["validation"][1] if "validation" in found else ()
            check_disjoint(Splits(tuple(rows), validation, others), family_field=columns.family)
        except DataError as error:
            notes.append(f"{file.name} lies beside {path.name} but was not taken as data.{side}: {error}")
        else:
            found[side] = file, others
    return found, notes


def _load(file: Path, columns: Columns) -> list[Row]:
    return load_rows(
        str(file),
        input_field=columns.input,
        output_field=columns.output,
        id_field=columns.id,
        family_field=columns.family,
    )
