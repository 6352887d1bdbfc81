"""How numbers are called and written for people, on the terminal and in the report alike. Computes no statistics.

An estimate is a mapping {mean, low, high, n}: a mean over `n` held-out rows with its 95 % interval.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlft_core.config.postprocess import POST

MINUS = "\u2212"
DASH = "\u2013"
NO_DIFFERENCE = "no clear difference"


@dataclass(frozen=True, slots=True)
class Wording:
    """A metric's label, whether more of it is better (+1), worse (-1) or neither (0), and how it is written.

    A `minor` one only says again what another says: it is left out where there is little room.
    """

    label: str
    direction: int = 0
    percent: bool = False
    digits: int = 3
    minor: bool = False

    def value(self, number: float) -> str:
        """`0.891` as `89.1 %` or `0.891`."""
        text = f"{100 * number:.1f} %" if self.percent else f"{number:.{self.digits}f}"
        return text.replace("-", MINUS)

    def short(self, number: float) -> str:
        """The value for one row, where no more is known: `100 %` or `0.36`."""
        return (f"{100 * number:.0f} %" if self.percent else f"{number:.2f}").replace("-", MINUS)

    def change(self, number: float) -> str:
        """A difference with its sign: `+9.4 points` or `+0.038`."""
        return f"{self.signed(number)} points" if self.percent else self.signed(number)

    def signed(self, number: float) -> str:
        """The same without its unit."""
        text = f"{100 * number:+.1f}" if self.percent else f"{number:+.{self.digits}f}"
        return text.replace("-", MINUS)


_WORDINGS = {
    "rouge1": Wording("ROUGE-1", direction=1),
    "rouge2": Wording("ROUGE-2", direction=1),
    "rougeL": Wording("ROUGE-L", direction=1),
    "rules": Wording("Rules reward", direction=1),
    "rules/all": Wording("All rules passed", direction=1, percent=True),
    "rules/share": Wording("Share of rules passed", direction=1, percent=True),
    "rules_passed": Wording("All rules passed", direction=1, percent=True),
    "format": Wording("Format reward", direction=1),
    "format/all": Wording("Format right", direction=1, percent=True),
    "embedding_similarity": Wording("Embedding similarity", direction=1),
    "similarity_to_reference": Wording("Similarity to reference", direction=1),
    "exact_match": Wording("Exact match", direction=1, percent=True),
    "length": Wording("Length reward", direction=1),
    "repetition": Wording("Repetition penalty", direction=1),
    "repetition_share": Wording("Repetition", direction=-1),
    "ended_by_eos": Wording("Ended by EOS", direction=1, percent=True),
    "num_words": Wording("Words per output", digits=2),
    "num_tokens": Wording("Tokens per output", digits=2),
    "copy_rate": Wording("Copied from the input", percent=True),
    "la_rouge1": Wording("Length-adjusted ROUGE-1", direction=1, minor=True),
    "la_rouge2": Wording("Length-adjusted ROUGE-2", direction=1, minor=True),
    "la_rougeL": Wording("Length-adjusted ROUGE-L", direction=1, minor=True),
    "unsupported_numbers": Wording("Numbers not in the input", direction=-1, percent=True),
    "unsupported_names": Wording("Names not in the input", direction=-1, percent=True),
    "reward_model": Wording("Reward model", direction=1),
    "length_penalty": Wording("Length penalty", direction=1),
    "bertscore": Wording("BERTScore F1", direction=1),
}


def wording(metric: str) -> Wording:
    """How this metric is written; an unknown one gets its own name and no direction."""
    reward, _, detail = metric.partition("/")
    if metric in _WORDINGS:
        return _WORDINGS[metric]
    name = (detail or reward).replace("_", " ")
    if detail and reward in ("rules", "format"):
        return Wording(f"Rule: {name}", direction=1, percent=True)
    return Wording(f"{reward}: {name}" if detail else name[:1].upper() + name[1:])


_SHORT_WORDS = frozenset(
    {"all", "few", "new", "no", "off", "old", "on", "one", "raw", "set", "six", "ten", "top", "two"}
)
"""What a system's name may begin with that is not an acronym."""


def is_detail(metric: str) -> bool:
    """Whether the metric only says what another one is made of: shown to who looks for it."""
    return "/" in metric and metric not in _WORDINGS


def system_label(name: str) -> str:
    """`rl` -> `RL`, `base` -> `Base`, `mle+post` -> `MLE + post`, `mle_sampled` -> `MLE sampled`."""
    if name.endswith(POST) and name != POST:
        return f"{system_label(name.removesuffix(POST))} + {POST[1:]}"
    first, *rest = name.split("_")
    acronym = len(first) <= 3 and first not in _SHORT_WORDS
    return " ".join([first.upper() if acronym else first[:1].upper() + first[1:], *rest])


def split_pair(name: str, systems: Iterable[str]) -> tuple[str, str]:
    """The two systems of a difference: `rl-mle` -> (`rl`, `mle`). A system's own name may contain a hyphen."""
    known = set(systems)
    parts = name.split("-")
    for at in range(1, len(parts)):
        first, second = "-".join(parts[:at]), "-".join(parts[at:])
        if first in known and second in known:
            return first, second
    first, _, second = name.partition("-")
    return first, second


def main_pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons that say most, (later, earlier), where all of them would be too many.

    First each system against the one before it and, which is the cheap alternative to it, that one post-processed; the
    newest first. Then post-processed ones among themselves, and against their own plain ones.
    """
    plain = [system for system in systems if not (system.endswith(POST) and system.removesuffix(POST) in systems)]
    steps = list(zip(plain[1:], plain, strict=False))[::-1]
    pairs = [(later, earlier + suffix) for later, earlier in steps for suffix in ("", POST)]
    pairs += [(later + POST, earlier + POST) for later, earlier in steps]
    pairs += [(system + POST, system) for system in plain[::-1]]
    return [pair for pair in pairs if set(pair) <= set(systems)]


def ordered_pairs(differences: Iterable[str], systems: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each difference's two systems: `main_pairs` first, then neighbours before others and the newest before older."""
    place = {system: index for index, system in enumerate(systems)}
    pairs = {name: split_pair(name, systems) for name in differences}
    main = main_pairs(systems)

    def distance(name: str) -> tuple[int, int, int]:
        first, second = (place.get(system, -1) for system in pairs[name])
        rank = main.index(pairs[name]) if pairs[name] in main else len(main)
        return rank, abs(first - second), -first

    return {name: pairs[name] for name in sorted(pairs, key=distance)}


def pair_label(pair: tuple[str, str]) -> str:
    """(`rl`, `mle`) as `RL \u2212 MLE`."""
    return f" {MINUS} ".join(system_label(part) for part in pair)


def interval(words: Wording, estimate: Mapping[str, float]) -> str:
    """`84.2 \u2013 93.8`, in the unit of the value."""
    scale, digits = (100.0, 1) if words.percent else (1.0, words.digits)
    return f"{scale * estimate['low']:.{digits}f} {DASH} {scale * estimate['high']:.{digits}f}".replace("-", MINUS)


def signed_interval(words: Wording, estimate: Mapping[str, float]) -> str:
    """`+4.7 to +14.8`."""
    return f"{words.signed(estimate['low'])} to {words.signed(estimate['high'])}"


def verdict(metric: str, estimate: Mapping[str, float]) -> str:
    """One of "better", "worse", "higher", "lower", "no clear difference".

    The last when the paired 95 % interval contains 0; "higher" and "lower" where neither is better.
    """
    if estimate["low"] <= 0 <= estimate["high"]:
        return NO_DIFFERENCE
    up = estimate["mean"] > 0
    direction = wording(metric).direction
    if direction == 0:
        return "higher" if up else "lower"
    return "better" if up == (direction > 0) else "worse"


def comparison(pair: tuple[str, str], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """What a paired comparison says, in one or two plain sentences. Details and minor metrics are left out."""
    told: dict[str, list[str]] = {}
    for metric, estimate in metrics.items():
        words, result = wording(metric), verdict(metric, estimate)
        if is_detail(metric) or words.minor:
            continue
        label = _inside_a_sentence(words.label)
        told.setdefault(result, []).append(
            label if result == NO_DIFFERENCE else f"{label} ({words.change(estimate['mean'])})"
        )
    name, other = (system_label(system) for system in pair)
    clear = [f"{result} on {_listing(told[result])}" for result in ("better", "worse") if result in told]
    clear += [f"{result} in {_listing(told[result])}" for result in ("higher", "lower") if result in told]
    if not clear:
        return f"Between {other} and {name} there is no clear difference."
    sentences = [f"Against {other}, {name} is {'; '.join(clear)}."]
    if NO_DIFFERENCE in told:
        sentences.append(f"No clear difference in {_listing(told[NO_DIFFERENCE])}.")
    return " ".join(sentences)


def compact(number: float, *, digits: int = 3) -> str:
    """About `digits` digits however large or small: `0.738`, `1,240`, `269 M`, `2.9e\u22126`."""
    size = abs(number)
    for factor, letter in ((1e9, "G"), (1e6, "M")):
        if size >= factor:
            return f"{number / factor:.{digits}g} {letter}".replace("-", MINUS)
    if size >= 100:
        return f"{number:,.0f}".replace("-", MINUS)
    text = f"{number:.{digits}g}"
    return re.sub(r"e([+-])0*", r"e\1", text).replace("-", MINUS)


def duration(seconds: float) -> str:
    """`0:04:12`, or `4.2 s` below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)


def clock_time(seconds: float) -> str:
    """`0:04:12`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def printable(text: str) -> str:
    """Text from a model or a data file without control characters: it must not be able to steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _inside_a_sentence(label: str) -> str:
    """Begun in lower case, unless the first word is a name such as ROUGE-L or BERTScore."""
    first_word = label.split(" ")[0]
    return label if any(letter.isupper() for letter in first_word.split("-")[0][1:]) else label[:1].lower() + label[1:]


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
