"""From statements that can be measured to a verdict on a claim.

A statement about a number with an interval holds when the whole interval is on its side of the threshold, fails when the
whole interval is on the other side, and is undecided when the threshold lies inside. The verdict follows:

    reproduced   all hold              not reproduced      none holds and one fails
    partly       some hold             undecided           none holds, none fails: too few facts
                                       not testable here   there is no statement
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """One measurable part of a claim: what must be so, what was found, and whether it is so (None: undecided)."""

    says: str
    found: str
    holds: bool | None


def beyond(found: tuple[float, float, float], threshold: float) -> bool | None:
    """Whether a (value, low, high) is above a threshold with its whole interval; None when it lies inside."""
    _, low, high = found
    return True if low > threshold else False if high < threshold else None


def below(found: tuple[float, float, float], threshold: float) -> bool | None:
    """Whether it is below, likewise."""
    above = beyond(found, threshold)
    return None if above is None else not above


def verdict(statements: Sequence[Statement]) -> str:
    """The verdict on a claim; see the module."""
    outcomes = [statement.holds for statement in statements]
    if not outcomes:
        return "not testable here"
    if all(outcomes):
        return "reproduced"
    if any(outcomes):
        return "partly"
    return "not reproduced" if False in outcomes else "undecided"


def text(found: tuple[float, float, float], form: str = ".1f") -> str:
    """A (value, low, high) for a person: value [low, high]."""
    value, low, high = (format(number, form) for number in found)
    return f"{value} [{low}, {high}]"
