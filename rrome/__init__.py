"""rrome: the paper *Rebuilding ROME*, reproduced. The order of the imports is the order in which data flows."""

__version__ = "0.1.0"

from .errors import RromeError
from .models import Model, generate, load, wrap
from .facts import Fact
from .fact_sets import load_facts
from .covariance import SecondMoment, second_moment
from .keys import Keys
from .values import Search, Value
from .rules import RULES, KeyChoice, RankOneUpdate, Rule
from .editor import Editor
from .edit_log import EditLog

__all__ = [
    "RULES", "EditLog", "Editor", "Fact", "KeyChoice", "Keys", "Model", "RankOneUpdate", "RromeError", "Rule", "Search",
    "SecondMoment", "Value", "generate", "load", "load_facts", "second_moment", "wrap",
]  # fmt: skip
