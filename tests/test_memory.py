"""What each rule promises of W', on a random memory."""

from rrome.study.claims import memory_errors
from rrome.update.rules import RULES


def test_the_algebra_is_exact_where_a_rule_promises_it_and_nowhere_else():
    for rule, errors in memory_errors().items():
        for key, error in errors.items():
            assert (error < 1e-4) == (RULES[rule].exact_at == key), (rule, key)
