"""The language model: its edit site W and what is now in it, loading, tokens, and hooks into a forward pass."""

from .edits import Edits, Record
from .load import DEFAULT_MODEL, load
from .model import Model, generate, wrap
from .site import EditSite, find_site
from .tokens import BARE, read_row, sample_prefixes, subject_position, subject_tokens

__all__ = [
    "BARE", "DEFAULT_MODEL", "EditSite", "Edits", "Model", "Record", "find_site", "generate", "load", "read_row",
    "sample_prefixes", "subject_position", "subject_tokens", "wrap",
]  # fmt: skip
