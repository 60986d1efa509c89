"""Figures and tables from tidy frames, saved with their data and provenance."""

from .beyond import depth_map, identity_second_moment, layer_choice, leading_tokens, spectrum, speed, text_sizes
from .claims import verdicts
from .examples import disabling_edit
from .save import (
    INTERVAL,
    LINES,
    SERIES,
    as_text,
    name_rules,
    provenance,
    save_figure,
    save_files,
    save_table,
    show,
    style,
    subplots,
    with_interval,
)
from .sequential import collapse_curves, survival_curves
from .single import (
    amplification_scatter,
    delta_scatter,
    key_grid,
    predicted_damage,
    prefixed_efficacy,
    preflight_roc,
    what_came_after,
)

__all__ = [
    "INTERVAL", "LINES", "SERIES", "amplification_scatter", "as_text", "collapse_curves", "delta_scatter", "depth_map",
    "disabling_edit", "identity_second_moment", "key_grid", "layer_choice", "leading_tokens", "name_rules",
    "predicted_damage", "prefixed_efficacy", "preflight_roc", "provenance", "save_figure", "save_files", "save_table",
    "show", "spectrum", "speed", "style", "subplots", "survival_curves", "text_sizes", "verdicts", "what_came_after",
    "with_interval",
]  # fmt: skip
