import json

import torch
from facts_for_tests import PREFIXES

from rrome import Editor, second_moment
from rrome.plots.save import git_commit, provenance


def test_everything_needed_to_make_the_figure_again_is_recorded(tiny, texts):
    editor = Editor(tiny, second_moment(tiny, texts, 3000, cache=False), PREFIXES, seed=5)
    record = json.loads(json.dumps(provenance(editor, profile="smoke", rules=["rome"])))
    assert record["model"]["name"] == tiny.name and record["model"]["fingerprint"] == tiny.fingerprint
    assert record["layer"] == 1 and record["seed"] == 5 and record["prefixes"] == PREFIXES
    assert record["second_moment"] == {"key": editor.second_moment.key, "tokens": 3000}
    assert record["search"]["evaluations"] == 20 and record["device"] == "cpu" and record["dtype"] == "float32"
    assert record["settings"] == {"profile": "smoke", "rules": ["rome"]}
    assert record["versions"]["torch"] == torch.__version__ and record["versions"]["transformers"]
    assert record["run_seconds"] > 0


def test_without_an_editor_only_settings_and_surroundings_are_recorded():
    record = provenance(seed=0)
    assert record["settings"] == {"seed": 0} and "model" not in record


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_commit(tmp_path) is None
