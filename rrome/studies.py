"""The two studies: every edit alone (`single`), and one edit after another into the same model (`sequential`)."""

from .sequential import Checks, sequential_edits
from .single import Measures, preflights, single_edits, strata, study_settings

__all__ = ["Checks", "Measures", "preflights", "sequential_edits", "single_edits", "strata", "study_settings"]
