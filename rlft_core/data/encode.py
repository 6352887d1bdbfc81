"""Token ids of prompts and targets, and the check that they fit.

Special tokens come from the chat template and the EOS rule only. The same strings inside a user's text ("<s>",
"<|im_end|>") are encoded as ordinary text, so data can neither end a turn nor an answer. Nothing is ever truncated:
a prompt that is too long is an error or is skipped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal

from jinja2.exceptions import TemplateError

from rlft_core.data.template import render
from rlft_core.errors import ConfigError, DataError, ModelError
from rlft_core.types import Row

if TYPE_CHECKING:  # so that data can be checked without waiting for torch
    from transformers import PreTrainedTokenizerBase

_MODE = Lock()  # transformers first sets a tokenizer's mode and then encodes: two threads would get each other's
_STAND_IN = "stand-in-for-the-users-text-5f0c"  # holds the text's place while only the chat template is tokenised


@dataclass(frozen=True, slots=True)
class Fitting:
    """The rows whose prompts fit, their token ids in the same order, and how many rows were left out."""

    rows: tuple[Row, ...]
    ids: tuple[tuple[int, ...], ...]
    num_skipped: int


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, row: Row, *, system: str | None, template: str, chat: bool
) -> list[int]:
    """The token ids [P] that an answer to `row` continues.

    With `chat` and a tokenizer that has a chat template: the system message, the filled template as the user's
    message, and the opening of the assistant's turn. `system=None` leaves the system message to the chat template
    (some add their own), "" sends an empty one. Otherwise: the system text, a blank line and the filled template, as
    plain text with the special tokens the tokenizer itself puts at the start of a text, but none at its end.

    Raises:
        DataError, ConfigError: the template cannot be filled from this row.
        ModelError: the model's chat template refuses these messages.
    """
    text = render(template, row)
    if chat and tokenizer.chat_template:
        if _holds_special_token(tokenizer, text):
            before, _, after = _apply_chat_template(tokenizer, system, _STAND_IN).partition(_STAND_IN)
            return [*_encode(tokenizer, before), *plain_ids(tokenizer, text), *_encode(tokenizer, after)]
        return _encode(tokenizer, _apply_chat_template(tokenizer, system, text))
    if system:
        text = f"{system}\n\n{text}"
    with _MODE:
        opening = list(tokenizer.encode(""))
    if opening and opening[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id:
        opening.pop()  # an EOS put after every text would end the answer before it begins
    return [*opening, *plain_ids(tokenizer, text)]


def encode_target(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids [T] of an answer: those of `text`, and exactly one EOS, which is the last.

    Raises:
        ModelError: the tokenizer has no EOS token, so no answer could ever end.
    """
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no EOS token, so answers could not end. "
            "Set eos_token in its tokenizer_config.json, or use another model."
        )
    return [*plain_ids(tokenizer, text), tokenizer.eos_token_id]


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which everything is meant as text, with nothing added. Any number of threads may call it."""
    with _MODE:
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def check_lengths(
    rows: Sequence[Row],
    ids: Sequence[Sequence[int]],
    *,
    max_prompt_tokens: int,
    max_model_len: int,
    max_new_tokens: int = 0,
    too_long: Literal["error", "skip"] = "error",
    source: str = "the data",
) -> Fitting:
    """Check every prompt against its budget, min(max_prompt_tokens, max_model_len - max_new_tokens) tokens.

    `rows` and `ids` correspond; `source` names the data in messages.

    Raises:
        ConfigError: the answers alone fill the model's context.
        DataError: a prompt is too long and `too_long` is "error"; or none is left; or one has no tokens.
    """
    room = max_model_len - max_new_tokens
    if room < 1:
        raise ConfigError(
            f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in max_model_len = {max_model_len}. "
            "Lower the first or raise the second."
        )
    budget = min(max_prompt_tokens, room)
    lengths = [len(tokens) for tokens in ids]
    if 0 in lengths:
        raise DataError(f"{source}: the prompt of row {rows[lengths.index(0)].id} has no tokens. Mend the template.")
    over = [index for index, length in enumerate(lengths) if length > budget]
    if over and (too_long == "error" or len(over) == len(rows)):
        limit = (
            f"max_prompt_tokens = {max_prompt_tokens}"
            if max_prompt_tokens <= room
            else f"max_model_len - max_new_tokens = {max_model_len} - {max_new_tokens} = {room}"
        )
        raise DataError(
            f"{source}: the prompt of row {rows[over[0]].id} has {lengths[over[0]]} tokens, more than {limit} "
            f"({len(over)} of {len(rows)} rows are too long, the longest has {max(lengths)} tokens). "
            f"Raise the limit, shorten the rows, or set too_long to 'skip' to leave such rows out."
        )
    fitting = [index for index, length in enumerate(lengths) if length <= budget]
    return Fitting(
        rows=tuple(rows[index] for index in fitting),
        ids=tuple(tuple(ids[index]) for index in fitting),
        num_skipped=len(over),
    )


def _apply_chat_template(tokenizer: PreTrainedTokenizerBase, system: str | None, text: str) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        way_out = "Put the system text into the template and set system to null." if system else "Set chat to false."
        raise ModelError(f"The model's chat template refuses these messages: {error}. {way_out}") from error
    return str(rendered)


def _holds_special_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return any(token.special and token.content in text for token in tokenizer.added_tokens_decoder.values())


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which special tokens are meant as such."""
    with _MODE:
        return list(tokenizer.encode(text, add_special_tokens=False))
