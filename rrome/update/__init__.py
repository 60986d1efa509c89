"""From a fact to its update: keys, second moment, value, and the rule that makes a rank-one update of them."""

from .choice import NAMED_RULES, RULES, KeyChoice, Rule
from .keys import Keys, facts_keys
from .methods import METHODS, Filter, Memory, Method
from .rules import Preflight, RankOneUpdate, preflight, rank_one_update, rule_named, rules_named
from .second_moment import SecondMoment, read_second_moment, second_moment, second_moment_from
from .value import Search, Value, find_values
from .wrappers import NAS, SPHERE, anchor_norm, pruned

__all__ = [
    "METHODS", "NAMED_RULES", "NAS", "RULES", "SPHERE", "Filter", "KeyChoice", "Keys", "Memory", "Method",
    "Preflight", "RankOneUpdate", "Rule", "Search", "SecondMoment", "Value", "anchor_norm", "facts_keys",
    "find_values", "preflight", "pruned", "rank_one_update", "read_second_moment", "rule_named", "rules_named",
    "second_moment", "second_moment_from",
]  # fmt: skip
