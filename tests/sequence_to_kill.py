"""A small sequential study as a process of its own, for tests that kill it: python sequence_to_kill.py FOLDER."""

import sys
from dataclasses import replace

from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, make_model, random_texts

from rrome import Editor, second_moment
from rrome.measure.tasks import Choice, ChoiceTask
from rrome.study import Checks, sequential_edits

TASK = ChoiceTask("choice", (Choice("The old town", "Rome", ("Paris",)), Choice("A ship", "sailed", ("cold",))))
CHECKS = Checks(
    every=2, probe="The old town lies on the river.",
    tasks=[TASK], prompts=["The town"], n_generated=4,
)  # fmt: skip


def make_facts(n=5, generation=()):
    """Facts with a true answer and one prompt of each kind."""
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("Paris is",), "generation": generation}
    return [replace(fact, target_true="Berlin", case_id=n, **prompts) for n, fact in enumerate(FACTS[:n])]


def make_editor(prefixes=PREFIXES, **settings):
    """An editor of a tiny Llama."""
    model = make_model(FAMILIES["llama"])
    return Editor(model, second_moment(model, random_texts(), None, cache=False), prefixes=prefixes, **settings)


def run(folder):
    """Five edits with a checkpoint after every second."""
    return sequential_edits(make_editor(), make_facts(), folder, rule="rome", checks=CHECKS, progress=False)


if __name__ == "__main__":
    run(sys.argv[1])
