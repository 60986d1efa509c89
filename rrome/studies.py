"""The two studies: every edit alone (`single`), and one edit after another into the same model (`sequential`)."""

from .ahead import preflights, strata
from .sequential import Checks, read_sequential, sequential_edits
from .single import Measures, read_single_edits, single_edits, study_settings

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
