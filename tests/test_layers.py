from dataclasses import replace

import numpy as np
import pytest
from facts_for_tests import FACTS

from rrome import Fact
from rrome.measure.metrics import score
from rrome.study.layer import layer_damage, layer_sweep, layer_table


@pytest.fixture(scope="module")
def facts():
    """Two ordinary facts and one whose subject is a single token at the start."""
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("Paris is",), "generation": ("The town",)}
    ordinary = [replace(fact, target_true="Berlin", **prompts) for fact in FACTS[1:3]]
    return [*ordinary, Fact("{} is", "I", "Rome", "Paris", **prompts)]


def test_every_layer_gets_a_row_from_its_own_edits(tiny_llama, texts, facts, tmp_path):
    options = {"c0_tokens": 3000, "n_generated": 4}
    edits = layer_sweep(tiny_llama, [0, 2], facts, texts, tmp_path, **options)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["layer-00.jsonl", "layer-02.jsonl"]
    table = layer_table(edits)
    assert list(table.index) == [0, 2]
    here = edits[(edits["layer"] == 2) & (edits["rule"] == "r-rome") & (edits["position"] > 0)]
    assert len(here) == 2
    assert table.loc[2, "S"] == pytest.approx(score(*here[["ES", "PS", "NS"]].mean()))
    sizes = edits[(edits["layer"] == 2) & (edits["rule"] == "rome") & (edits["position"] == 0)]["delta_frobenius"]
    assert table.loc[2, "delta_first_token"] == pytest.approx(sizes.iloc[0])
    again = layer_sweep(tiny_llama, [0, 2], facts, texts, tmp_path, **options)
    assert len(again) == len(edits)


def test_damage_is_a_ratio_of_perplexities(tiny_llama, texts):
    before = tiny_llama.site.weight.clone()
    damage = layer_damage(tiny_llama, [1], FACTS[0], texts, ["The old town lies on"], c0_tokens=3000, n_tokens=50)
    assert list(damage.columns) == ["perplexity_rome", "perplexity_r-rome", "perplexity_p-rome"]
    assert np.isfinite(damage).all(axis=None) and (damage > 0).all(axis=None)
    assert (tiny_llama.site.weight == before).all()
