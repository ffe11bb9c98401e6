"""core.records: what a frozen dataclass would have given, for a third of its definition's time."""

from dataclasses import field, fields, replace

import pytest

from otel_perf.core.records import record


@record
class Spot:
    """A place."""

    path: str
    line: int = 0
    near: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def said(self):
        return f"{self.path}:{self.line}"


@record
class Other:
    path: str
    line: int = 0


@record
class Named:
    name: str

    def __repr__(self):
        return f"<{self.name}>"


def test_it_is_a_dataclass_with_slots():
    spot = Spot("a.py", 3)
    assert [each.name for each in fields(spot)] == ["path", "line", "near"]
    assert replace(spot, line=4) == Spot("a.py", 4)
    assert spot.said == "a.py:3"
    assert Spot("a").near is not Spot("a").near
    with pytest.raises(AttributeError):
        spot.unknown = 1


def test_it_is_equal_and_hashed_by_the_values_that_are_compared():
    assert Spot("a.py", 3, ["x"]) == Spot("a.py", 3, ["y"])
    assert Spot("a.py", 3) != Spot("a.py", 4)
    assert Spot("a.py", 3) != Other("a.py", 3)
    assert Spot("a.py", 3) != ("a.py", 3)
    assert len({Spot("a.py", 3, ["x"]), Spot("a.py", 3, ["y"]), Spot("a.py")}) == 2


def test_it_shows_what_it_is_and_keeps_what_it_defines_itself():
    assert repr(Spot("a.py", 3, ["x"])) == "Spot(path='a.py', line=3)"
    assert repr(Named("n")) == "<n>"
