import json

import pandas as pd
import torch
from facts_for_tests import PREFIXES

from rrome import Editor, second_moment
from rrome.plots.save import git_commit, provenance
from tools import compare


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


def test_a_run_is_compared_with_the_accepted_tables(tmp_path, capsys):
    accepted = pd.DataFrame({"rule": ["rome", None], "perplexity": [20.0, None], "n": [0, 2]})
    assert compare.difference(accepted, accepted) == "equal"
    far = compare.difference(accepted.assign(perplexity=[30.0, None], rule=["r-rome", None]), accepted)
    assert far == "perplexity by 5.0e-01 of itself, other numbers by less; 1 texts differ"
    assert "inf" in compare.difference(accepted.assign(perplexity=[20.0, 1.0]), accepted)
    assert "1 rows of 3 columns, accepted are 2 of 3" in compare.difference(accepted[:1], accepted)
    accepted.to_csv(tmp_path / "of_no_figure.csv")
    compare.main(str(tmp_path / "of_no_figure.csv"))
    assert not capsys.readouterr().out
