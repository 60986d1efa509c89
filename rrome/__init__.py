"""rrome: the paper *Rebuilding ROME*, reproduced. The order of the imports is the order in which data flows.

Each name is imported when it is first used: torch and transformers take seconds, pandas and scikit-learn, for studies, more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
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
PARTS = ("store", "facts", "model", "update", "edit", "study", "measure", "plots", "naive")


def __getattr__(name: str) -> Any:
    if name in PARTS:
        return import_module(f".{name}", __name__)
    if name in __all__:
        for part in PARTS:
            if hasattr(module := import_module(f".{part}", __name__), name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *PARTS, "__version__"]
