"""How a judgement is asked of a language model: templates in files, filled in one pass, and their judgement tokens.

    system?  user: task, response A, response B   assistant: `answer` ──▶ one of two labels, each a single token
    system?  user: task, response                 assistant: `answer` ──▶ one of several grades, the worst first

A response that contains "{response_b}" is only text: values are never filled again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlft_core.data.encode import encode_prompt, plain_ids
from rlft_core.data.template import placeholders, render
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COMPARES = ("context", "response_a", "response_b")
_GRADES = ("context", "response")
_KEYS = frozenset({"principles", "system", "user", "answer", "labels", "rationale"})
_PLACES = frozenset({*_COMPARES, *_GRADES, "principle", "principle_text"})
_REASONS = ("rationale_a", "rationale_b")
NO_PRINCIPLE = ""


@dataclass(frozen=True, slots=True)
class JudgeTemplate:
    """`user` and `system` have placeholders {context}, {response_a}, {response_b}, {principle} and {principle_text};
    `answer` is how the assistant's turn begins; `labels` are what it may go on with. `principles` by name. `rationale`, with
    {rationale_a} and {rationale_b}, follows the label where a model learns to say why; nobody waits for it when judging.

    With {response} in the place of {response_a} and {response_b} it grades one response, and `labels` rise."""

    name: str
    user: str
    answer: str
    labels: tuple[str, ...]
    system: str | None = None
    principles: Mapping[str, str] = field(default_factory=lambda: {NO_PRINCIPLE: ""})
    rationale: str | None = None

    @property
    def grades(self) -> bool:
        """Whether it shows one response, to be graded, and not two to compare."""
        return "response" in _places(self.user, self.system)

    def comparing(self) -> JudgeTemplate:
        """This template. Raises ConfigError when it does not compare."""
        if self.grades:
            raise ConfigError(
                f"judge template '{self.name}' grades one response, and here two are compared; take one that shows "
                "{response_a} and {response_b}, such as better-answer"
            )
        return self

    def grading(self) -> JudgeTemplate:
        """This template. Raises ConfigError when it does not grade."""
        if not self.grades:
            raise ConfigError(
                f"judge template '{self.name}' compares two responses; one that grades shows {{response}}"
            )
        return self

    def chosen(self, principles: Sequence[str] | None) -> tuple[str, ...]:
        """The principles named, or all. Raises ConfigError for an unknown one, and for none."""
        found = tuple(self.principles if principles is None else principles)
        unknown = [name for name in found if name not in self.principles]
        if unknown or not found:
            there = ", ".join(f"'{name}'" for name in self.principles)
            told = f"has no principle '{unknown[0]}'" if unknown else "is asked by no principle"
            raise ConfigError(f"judge template '{self.name}' {told}; there are: {there}")
        return found

    def fields(self, context: str, *responses: str, principle: str) -> dict[str, str]:
        """What fills the placeholders."""
        places = _GRADES[1:] if self.grades else _COMPARES[1:]
        shown = dict(zip(places, responses, strict=True))
        return {"context": context, "principle": principle, "principle_text": self.principles[principle], **shown}

    def prompt(self, tokenizer: PreTrainedTokenizerBase, context: str, *responses: str, principle: str) -> list[int]:
        """The token ids that a label continues, with the responses in their places."""
        row = Row("", context, "", self.fields(context, *responses, principle=principle))
        system = render(self.system, row) if self.system is not None else None
        ids = encode_prompt(tokenizer, row, system=system, template=self.user, chat=True)
        return [*ids, *plain_ids(tokenizer, self.answer)]

    def reasons(self, first: str, second: str) -> str:
        """What follows the label where reasons are learned; nothing without a `rationale`."""
        row = Row("", "", "", dict(zip(_REASONS, (first, second), strict=True)))
        return render(self.rationale, row) if self.rationale is not None else ""

    def label_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Token ids of the labels after `answer`. Raises JudgeError naming what the tokenizer makes of them instead."""
        opening = plain_ids(tokenizer, self.answer)
        found, told = [], []
        for label in self.labels:
            whole = plain_ids(tokenizer, self.answer + label)
            rest = whole[len(opening) :] if whole[: len(opening)] == opening else []
            found.append(rest)
            told.append(f"{label!r}: {tokenizer.convert_ids_to_tokens(rest or whole)}")
        if any(len(ids) != 1 for ids in found) or len({ids[0] for ids in found}) < len(found):
            raise JudgeError(
                f"judge template '{self.name}': its labels are no {len(found)} single tokens of this tokenizer after "
                f"{self.answer!r} ({', '.join(told)}). Write a template with other labels, such as 1 and 2, or another answer "
                "before them"
            )
        return tuple(ids[0] for ids in found)


def load_template(name: str, *, base_dir: Path | None = None) -> JudgeTemplate:
    """A template that comes with rlft, by name, or a YAML file. Raises ConfigError naming the key and the way out."""
    folder = resources.files("rlft_core.judging") / "templates"
    own = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    if name in own:
        return parse_template(name, yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))
    path = (base_dir or Path.cwd()) / name
    if not path.is_file():
        raise ConfigError(f"judge template '{name}': there is no such file, and rlft's own are {', '.join(own)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"judge template {path}: not YAML: {error}") from error
    return parse_template(str(path), content)


def parse_template(name: str, content: Any) -> JudgeTemplate:
    """The template in a mapping. Raises ConfigError."""
    where = f"judge template '{name}'"
    if not isinstance(content, Mapping) or not {"user", "labels"} <= set(content):
        raise ConfigError(f"{where}: needs `user` and `labels`; a template has the keys {', '.join(sorted(_KEYS))}")
    unknown = sorted(set(content) - _KEYS)
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; a template has the keys {', '.join(sorted(_KEYS))}")
    used = _places(str(content["user"]), str(content.get("system") or ""))
    grades = "response" in used
    unknown_places = sorted(used - _PLACES)
    if unknown_places:
        shown = ", ".join(f"{{{place}}}" for place in sorted(_PLACES))
        raise ConfigError(
            f"{where}: nothing fills {{{unknown_places[0]}}}; a judge is shown {shown}, and {{{{ or }}}} is a brace"
        )
    if not isinstance(content.get("answer") or "", str):
        raise ConfigError(f"{where}: answer must be text (got {content['answer']!r})")
    labels = content["labels"]
    number = len(labels) if isinstance(labels, list) else 0
    if (number < 2 if grades else number != 2) or not all(isinstance(label, str) and label for label in labels):
        wanted = 'texts from worst to best, such as ["1", "2", "3"]' if grades else 'two texts, such as [" A", " B"]'
        raise ConfigError(f"{where}: labels must be {wanted} (got {labels!r})")
    rationale = content.get("rationale")
    if rationale is not None and set(_REASONS) != _places(str(rationale), None):
        raise ConfigError(
            f"{where}: rationale needs {{rationale_a}} and {{rationale_b}}, and nothing else is filled there"
        )
    principles = content.get("principles") or {NO_PRINCIPLE: ""}
    if not isinstance(principles, Mapping) or not all(isinstance(text, str) for text in principles.values()):
        raise ConfigError(f"{where}: principles must be texts by name (got {principles!r:.80})")
    if content.get("principles") and not used & {"principle", "principle_text"}:
        raise ConfigError(
            f"{where}: shows neither {{principle}} nor {{principle_text}}, so all principles ask the same; put one in"
        )
    both = sorted(used & {"response_a", "response_b"})
    if grades and both:
        raise ConfigError(
            f"{where}: has {{response}}, which grades, and {{{both[0]}}}, which compares; take one of the two"
        )
    missing = [key for key in (_GRADES if grades else _COMPARES) if key not in used]
    if missing:
        raise ConfigError(f"{where}: has no {{{missing[0]}}}, so the judge would not see it; put it into `user`")
    return JudgeTemplate(
        name,
        str(content["user"]),
        str(content.get("answer") or ""),
        tuple(labels),
        None if content.get("system") is None else str(content["system"]),
        {str(key): text for key, text in principles.items()},
        None if rationale is None else str(rationale),
    )


def _places(user: str, system: str | None) -> set[str]:
    return {*placeholders(user), *placeholders(system or "")}
