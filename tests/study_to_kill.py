"""A small single-edit study as a process of its own, for tests that kill it: python study_to_kill.py JOURNAL."""

import sys

from sequence_to_kill import make_editor, make_facts

from rrome.study import Measures, single_edits


def study(path):
    """Four facts under all rules with short texts, on the tiny Llama."""
    facts, measures = make_facts(4, generation=("The town",)), Measures(n_generated=4)
    return single_edits(make_editor(), facts, path, measures=measures, progress=False)


if __name__ == "__main__":
    study(sys.argv[1])
