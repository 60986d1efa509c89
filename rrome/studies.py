"""The two studies: every edit alone (`single`), and one edit after another into the same model (`sequential`)."""

from .sequential import Checks, read_sequential, sequential_edits
from .single import Measures, preflights, read_single_edits, single_edits, strata, study_settings

__all__ = [
    "Checks",
    "Measures",
    "preflights",
    "read_sequential",
    "read_single_edits",
    "sequential_edits",
    "single_edits",
    "strata",
    "study_settings",
]
