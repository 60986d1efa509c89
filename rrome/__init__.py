"""rrome: the paper *Rebuilding ROME*, reproduced. The order of the imports is the order in which data flows."""

__version__ = "0.2.0"

from .store import RromeError
from .facts import Fact, load_facts
from .model import Model, generate, load, wrap
from .update import METHODS, RULES, KeyChoice, Keys, RankOneUpdate, Rule, Search, SecondMoment, Value, second_moment
from .edit import EditLog, Editor
from .study import sequential_edits, single_edits

__all__ = [
    "METHODS", "RULES", "EditLog", "Editor", "Fact", "KeyChoice", "Keys", "Model", "RankOneUpdate", "RromeError", "Rule",
    "Search", "SecondMoment", "Value", "generate", "load", "load_facts", "second_moment", "sequential_edits",
    "single_edits", "wrap",
]  # fmt: skip
