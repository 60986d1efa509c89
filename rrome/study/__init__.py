"""The studies, one file each: many edits made and measured, as tables."""

from .ahead import preflights, strata
from .beyond import leading_edits, sink_survey, text_sizes, vocabulary_sample
from .claims import Evidence, memory_errors, scorecard
from .collapse import broken, collapse_edit, curve, disabling_edits, survival
from .examples import compute_updates, in_numbers, sizes, what_it_says
from .footprint import footprint
from .layer import layer_damage, layer_sweep, layer_table, trace_layers
from .protocol import (
    sequence_path,
    standard_checks,
    standard_editor,
    standard_evidence,
    standard_facts,
    standard_sequence,
    standard_sequences,
    standard_study,
    standard_tasks,
)
from .sequential import Checks, SequentialRun, read_sequential, sequential_edits
from .single import Measures, read_single_edits, single_edits, study_settings
from .speed import against_naive, scaling, stages
from .verdicts import as_markdown, verdicts

__all__ = [
    "Checks",
    "Evidence",
    "Measures",
    "SequentialRun",
    "against_naive",
    "as_markdown",
    "broken",
    "collapse_edit",
    "compute_updates",
    "curve",
    "disabling_edits",
    "footprint",
    "in_numbers",
    "layer_damage",
    "layer_sweep",
    "layer_table",
    "leading_edits",
    "memory_errors",
    "preflights",
    "read_sequential",
    "read_single_edits",
    "scaling",
    "scorecard",
    "sequence_path",
    "sequential_edits",
    "single_edits",
    "sink_survey",
    "sizes",
    "stages",
    "standard_checks",
    "standard_editor",
    "standard_evidence",
    "standard_facts",
    "standard_sequence",
    "standard_sequences",
    "standard_study",
    "standard_tasks",
    "strata",
    "study_settings",
    "survival",
    "text_sizes",
    "trace_layers",
    "verdicts",
    "vocabulary_sample",
    "what_it_says",
]
