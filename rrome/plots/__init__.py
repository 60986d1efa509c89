"""Figures and tables from tidy frames, saved with their data and provenance."""

from .beyond import (
    depth_map,
    layer_choice,
    leading_tokens,
    sink_survey,
    spectrum,
    speed,
    text_sizes,
    toy_memory,
    tracing,
)
from .claims import verdicts
from .later import identity_second_moment, what_came_after
from .save import as_text, provenance, save_figure, save_files, save_table, show, style, styled
from .sequential import collapse_curves, perplexity_paths, survival_curves
from .single import (
    amplification_scatter,
    delta_scatter,
    disabling_edit,
    key_grid,
    predicted_damage,
    prefixed_efficacy,
    preflight_roc,
)

__all__ = [
    "amplification_scatter", "as_text", "collapse_curves", "delta_scatter", "depth_map", "disabling_edit",
    "identity_second_moment", "key_grid", "layer_choice", "leading_tokens", "perplexity_paths", "predicted_damage",
    "prefixed_efficacy", "preflight_roc", "provenance", "save_figure", "save_files", "save_table", "show",
    "sink_survey", "spectrum", "speed", "style", "styled", "survival_curves", "text_sizes", "toy_memory", "tracing",
    "verdicts", "what_came_after",
]  # fmt: skip
