"""The studies, one file each: many edits made and measured, as tables."""

from .baseline import against_batched, lockstep_speed
from .beyond import leading_edits, sink_survey, text_sizes, vocabulary_sample
from .claims import memory_errors, scorecard
from .draw import draw_facts, draw_sequence, mixed_probe, named_tasks, preflights, probe
from .examples import playground, what_it_says
from .layer import SHOWN, depth_map, layer_sweep, layer_table, safety, trace_layers
from .runs import SequentialRun, broken, collapse_edit, curve, read_sequential, survival
from .sequential import Checks, lockstep, sequential_edits
from .single import Measures, read_single_edits, single_edits, study_settings
from .speed import edit_memory, scaling, stages
from .verdicts import Evidence, as_markdown, verdicts

__all__ = [
    "SHOWN", "Checks", "Evidence", "Measures", "SequentialRun", "against_batched", "as_markdown", "broken",
    "collapse_edit", "curve", "depth_map", "draw_facts", "draw_sequence", "edit_memory",
    "layer_sweep", "layer_table", "leading_edits", "lockstep", "lockstep_speed", "memory_errors", "mixed_probe",
    "named_tasks", "playground", "preflights", "probe", "read_sequential", "read_single_edits", "safety", "scaling",
    "scorecard", "sequential_edits", "single_edits", "sink_survey", "stages", "study_settings",
    "survival", "text_sizes", "trace_layers", "verdicts", "vocabulary_sample", "what_it_says",
]  # fmt: skip
