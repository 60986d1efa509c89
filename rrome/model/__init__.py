"""The language model: its edit site W and what is now in it, loading, tokens, and hooks into a forward pass."""

from .edits import Edits
from .load import DEFAULT_MODEL, load
from .model import Model, generate, wrap
from .site import EditSite, RankOneUpdate
from .tokens import read_row, sample_prefixes, subject_tokens

__all__ = [
    "DEFAULT_MODEL", "EditSite", "Edits", "Model", "RankOneUpdate", "generate", "load", "read_row", "sample_prefixes",
    "subject_tokens", "wrap",
]  # fmt: skip
