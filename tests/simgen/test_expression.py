"""Expressions: parsing and resolution."""

import pytest

from simgen.expression import Expression, parse
from simgen.field import Field

FIELDS = {"theta": Field((2,), names=("a", "b"), labels=("$a$", "$b$")), "x": Field((3,))}


def test_parse():
    assert parse("theta | x") == Expression(("theta",), ("x",))
    assert parse("x") == Expression(("x",))
    assert str(parse(" a ,b|x ")) == "a, b | x"


def test_a_parameter_is_a_field():
    fields = parse("b | x").resolve(FIELDS)
    assert fields["b"] == Field((), names=("b",), labels=("$b$",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theta | x | z", "at most one"),
        ("theta | ", "no field name"),
        ("x | x", "stands twice"),
        ("", "no field name"),
    ],
)
def test_malformed(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_unknown_field_lists_what_there_is():
    with pytest.raises(ValueError, match=r"no field 'y'.*theta, x, a, b"):
        parse("theta | y").resolve(FIELDS)


def test_parameter_beside_theta():
    with pytest.raises(ValueError, match="column of theta"):
        parse("theta | x, a").resolve(FIELDS)
