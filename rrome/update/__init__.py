"""From a fact to its update: keys, second moment, value, and the rule that makes a rank-one update of them."""

from .keys import Keys, facts_keys
from .methods import METHODS, Filter, Method
from .rules import NAMED_RULES, RULES, KeyChoice, RankOneUpdate, Rule, preflight, rank_one_update, rule_named
from .second_moment import SecondMoment, second_moment, second_moment_from
from .value import Search, Value, find_values
from .wrappers import NAS, SPHERE, anchor_norm, pruned

__all__ = [
    "METHODS", "NAMED_RULES", "NAS", "RULES", "SPHERE", "Filter", "KeyChoice", "Keys", "Method", "RankOneUpdate", "Rule",
    "Search", "SecondMoment", "Value", "anchor_norm", "facts_keys", "find_values", "preflight", "pruned",
    "rank_one_update", "rule_named", "second_moment", "second_moment_from",
]  # fmt: skip
