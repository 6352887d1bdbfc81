"""Templates: one pass, no surprise from braces in data, and errors that name the row and its fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.data import placeholders, render
from rlft_core.errors import ConfigError, DataError
from rlft_core.types import Row

ROW = Row("t:1", "in", "out", {"title": "T", "n": 3, "x": 0.5, "gone": None, "many": ["a"], "flag": True, "a b": "ab"})


@pytest.mark.parametrize(
    "template, expected",
    [
        ("plain", "plain"),
        ("", ""),
        ("{title}: {input}", "T: in"),
        ("{n} {x} {a b}", "3 0.5 ab"),
        ("{{title}} {title}", "{title} T"),
        ('{{"text": "{input}"}}', '{"text": "in"}'),
        ("{{{title}}}", "{T}"),
        ("{column.title}", "T"),
        ("{output}", "out"),
    ],
)
def test_filling(template: str, expected: str) -> None:
    assert render(template, ROW) == expected


@given(value=st.text(alphabet="{}ab title.0!:[]%$\\") | st.text())
def test_a_value_is_never_read_as_template(value: str) -> None:
    row = Row("t:1", value, "o", {"title": "SECRET", "v": value})
    assert render("<{input}|{v}>", row) == "<" + value + "|" + value + ">"


@pytest.mark.parametrize("template", ["{0}", "{title.__class__}", "{title!r}", "{title:>9}", "{title[0]}", "{ title }"])
def test_no_format_codes_and_no_attributes(template: str) -> None:
    with pytest.raises(DataError, match="row t:1 does not have"):
        render(template, ROW)


def test_unknown_placeholder_names_row_fields_and_near_spelling() -> None:
    with pytest.raises(DataError) as caught:
        render("{titel}", ROW)
    message = str(caught.value)
    for part in ("{titel}", "row t:1", "{title}", "{input}", "Did you mean {title}?", "{{"):
        assert part in message


@pytest.mark.parametrize("template, brace", [("a { b", "{"), ("a } b", "}"), ("a {} b", "{}"), ("{a{title}", "{")])
def test_stray_brace(template: str, brace: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(template, ROW)
    assert f"'{brace}' without a field name" in str(caught.value)
    assert "Write {field}" in str(caught.value)
    with pytest.raises(ConfigError):
        placeholders(template)


@pytest.mark.parametrize("name, found", [("gone", "null"), ("many", "list"), ("flag", "bool")])
def test_value_that_is_no_text(name: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"\{{{name}\}} is {found} in row t:1; only text and numbers"):
        render("{" + name + "}", ROW)


def test_a_column_called_input_that_is_not_the_input() -> None:
    row = Row("t:1", "do it", "done", {"instruction": "do it", "input": "context", "output": "done"})
    with pytest.raises(ConfigError, match=r"two things.*row t:1.*\{column.input\} for the column"):
        render("{input}", row)
    assert render("{instruction}|{column.input}|{output}", row) == "do it|context|done"


def test_placeholders() -> None:
    assert placeholders("{a} {{b}} {c}{a}") == ("a", "c")
