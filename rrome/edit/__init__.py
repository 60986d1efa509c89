"""Updates put into W and taken out, logs of many, and the forms in which edits are shared."""

from .adapter import save_adapter, save_merged
from .editor import Editor, Solution, load_editor
from .log import EditLog

__all__ = ["EditLog", "Editor", "Solution", "load_editor", "save_adapter", "save_merged"]
