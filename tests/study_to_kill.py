"""A small single-edit study as a process of its own, for tests that kill it: python study_to_kill.py JOURNAL."""

import sys
from dataclasses import replace

from conftest import CONFIGS, make_model, random_texts
from facts_for_tests import FACTS, PREFIXES

from rrome import Editor, second_moment
from rrome.study import Measures, single_edits


def study(path):
    """Four facts under all rules with short texts, on the tiny Llama."""
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("Paris is",), "generation": ("The town",)}
    facts = [replace(fact, target_true="Berlin", case_id=n, **prompts) for n, fact in enumerate(FACTS[:4])]
    model = make_model(CONFIGS["llama"])
    editor = Editor(model, second_moment(model, random_texts(), None, cache=False), prefixes=PREFIXES)
    return single_edits(editor, facts, path, measures=Measures(n_generated=4), progress=False)


if __name__ == "__main__":
    study(sys.argv[1])
