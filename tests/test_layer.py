from dataclasses import replace

import pandas as pd
import pytest
import torch
from facts_for_tests import FACTS
from families import model_of

from rrome import Editor, Fact, RromeError, second_moment, study
from rrome.measure.metrics import score
from rrome.measure.scores import perplexity
from rrome.model.site import find_site
from rrome.model.tokens import read_row, subject_tokens
from rrome.study import read_single_edits
from rrome.study.layer import (
    depth_map,
    layer_sweep,
    layer_table,
    safety,
    trace,
    trace_layers,
)

KNOWN = [
    Fact("{} is located in the continent of", "Italy", "Antarctica", target_true="Europe"),
    Fact("The Eiffel Tower, or {}, is in the city of", "The Eiffel Tower", "Rome", target_true="Paris"),
]


@pytest.fixture(scope="module")
def facts():
    """Two ordinary facts and one whose subject is a single token at the start."""
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("Paris is",), "generation": ("The town",)}
    ordinary = [replace(fact, target_true="Berlin", **prompts) for fact in FACTS[1:3]]
    return [*ordinary, Fact("{} is", "I", "Rome", "Paris", **prompts)]


@pytest.fixture(scope="module")
def sweep(tiny_llama, texts, facts, tmp_path_factory):
    """(edits, the folder of their journals) of two layers."""
    folder = tmp_path_factory.mktemp("sweep")
    return layer_sweep(tiny_llama, [0, 2], facts, texts, folder, c0_tokens=3000, n_generated=4), folder


def test_every_layer_gets_a_row_from_its_own_edits(tiny_llama, texts, facts, sweep):
    edits, folder = sweep
    assert [len(read_single_edits(folder, layer=layer)) for layer in (0, 2)] == [27, 27]  # a journal for each
    table = layer_table(edits)
    assert list(table.index) == [0, 2]
    here = edits[(edits["layer"] == 2) & (edits["rule"] == "r-rome") & (edits["position"] > 0)]
    assert len(here) == 2
    assert table.loc[2, "S"] == pytest.approx(score(*here[["ES", "PS", "NS"]].mean()))
    assert table["below_best"].max() == 0  # the best layer against itself
    again = layer_sweep(tiny_llama, [0, 2], facts, texts, folder, c0_tokens=3000, n_generated=4)
    assert again.equals(edits)


def test_the_depth_map_has_what_each_edit_does(tiny_llama, texts, facts, sweep):
    edits, _ = sweep
    table = depth_map(edits)
    assert len(table) == 2 * 3 * 8 and set(table["stratum"]) == {"ordinary", "first-token"}
    last = table.iloc[-1]
    model = tiny_llama.at_layer(2)
    editor = Editor(model, second_moment(model, texts, 3000), seed=0)
    fact = next(fact for fact in facts if fact.subject == last["subject"])
    solution, probe = editor.solve(fact), study.probe()
    update = solution.update(last["rule"])
    before = perplexity(model, [probe])
    with editor.applied(update):
        assert perplexity(model, [probe]) / before == pytest.approx(last["perplexity_ratio"], rel=1e-4)
    assert update.norm == pytest.approx(last["delta_frobenius"], rel=1e-4)
    assert solution.value.base.norm().item() == pytest.approx(last["norm_v0"], rel=1e-4)
    nothing = {
        "rewrite": [[None, 0.1]],
        "prefixed": [[None, 0.1]],
    }  # as a journal holds those of a model that gives NaN
    collapsed = depth_map(edits.assign(pairs=[nothing] * len(edits)))
    assert collapsed[["p_new_bare", "p_new_prefixed"]].isna().all(axis=None)


def test_broken_edits_are_counted_by_subject():
    ratios = {
        "perplexity_ratio": [1.0, 3.0, float("nan"), 1.5],
        "layer": [0, 1, 1, 0],
        "subject": ["I", "I", "I", "You"],
    }
    found = safety(pd.DataFrame(ratios).assign(rule="rome")).loc["rome"]
    assert found[["edits", "broken", "layers", "subjects", "share"]].tolist() == [4, 2, 1, 1, 0.5]
    assert found["low"] == pytest.approx(0.0945, abs=1e-4) and found["high"] == pytest.approx(0.9055, abs=1e-4)


def noise(model, fact, samples=3, scale=1.0):
    width = model.lm.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(samples, len(subject_tokens(model, fact)), width, generator=generator)


def naive_trace(model, fact, shift, kind, layer):
    """p and p*(layer) one noise sample at a time: a clean run to remember the state, then a noised run to put it back."""
    row = read_row(model, fact, target=fact.target_true)
    site = find_site(model.lm, layer)
    part = site.block if kind == "hidden" else site.module
    kept, probabilities = [], []

    def at_subject(out):
        return (out[0] if isinstance(out, tuple) else out).view(-1, model.lm.config.hidden_size)[row.subject]

    def run():
        log_probs = model.lm(input_ids=torch.tensor([row.ids[:-1]])).logits[0].log_softmax(-1)
        places = range(len(row.ids) - 1 - row.n_target, len(row.ids) - 1)
        return torch.stack([log_probs[place, row.ids[place + 1]] for place in places]).mean().exp().item()

    def add_noise(sample, out):
        tokens = subject_tokens(model, fact)
        out[0, tokens.start : tokens.stop] += sample

    def put_back(_part, _args, out):
        at_subject(out).copy_(kept[0])

    handle = part.register_forward_hook(lambda _part, _args, out: kept.append(at_subject(out).clone()))
    clean = run()
    handle.remove()
    for sample in shift:
        handles = [
            model.lm.get_input_embeddings().register_forward_hook(lambda _, _args, out, n=sample: add_noise(n, out)),
            part.register_forward_hook(put_back),
        ]
        probabilities.append(run())
        for handle in handles:
            handle.remove()
    return clean, sum(probabilities) / len(probabilities)


# blocks that return tuples, attention and MLP in parallel, an MLP of (B * T, d), one that adds its residual, one normed after
@pytest.mark.parametrize("name", ["gpt2", "gptj", "opt", "bloom", "gemma3"])
def test_every_layer_equals_one_run_at_a_time(name):
    model, fact = model_of(name), KNOWN[1]
    shift = noise(model, fact)
    for kind in ("hidden", "mlp"):
        clean, _, mended = trace(model, fact, shift, kind)
        for layer in (0, 2):
            expected_clean, expected = naive_trace(model, fact, shift, kind, layer)
            assert clean == pytest.approx(expected_clean, rel=1e-4)
            assert mended[layer] == pytest.approx(expected, rel=1e-4), (kind, layer)


def test_putting_back_the_only_changed_state_gives_the_clean_probability(tiny):
    fact = Fact("A cold town called {}", "Paris", "Antarctica", target_true="Rome")
    assert len(subject_tokens(tiny, fact)) == read_row(tiny, fact, target="Rome").n_target == 1
    clean, noised, mended = trace(tiny, fact, noise(tiny, fact), "hidden")
    assert mended == pytest.approx([clean] * tiny.depth, rel=1e-4)
    assert abs(noised - clean) > 1e-2 * clean


def test_no_noise_has_no_effect(tiny):
    clean, noised, mended = trace(tiny, KNOWN[0], noise(tiny, KNOWN[0], scale=0.0), "mlp")
    assert [noised, *mended] == pytest.approx([clean] * (1 + tiny.depth), rel=1e-5)


def test_the_last_block_is_too_late(tiny):
    _, noised, hidden = trace(tiny, KNOWN[0], noise(tiny, KNOWN[0]), "hidden")
    assert hidden[-1] == pytest.approx(noised, rel=1e-5)


def test_the_frame_is_tidy_seeded_and_leaves_the_model_alone(tiny):
    logits = tiny.lm(input_ids=torch.arange(1, 9)[None]).logits
    frame = trace_layers(tiny, KNOWN, samples=2, seed=3)
    assert list(frame) == ["layer", "kind", "effect", "low", "high", "total"]
    assert len(frame) == 2 * tiny.depth and (frame["low"] <= frame["high"]).all()
    assert frame.equals(trace_layers(tiny, KNOWN, samples=2, seed=3))
    assert not frame.equals(trace_layers(tiny, KNOWN, samples=2, seed=4))
    assert torch.equal(tiny.lm(input_ids=torch.arange(1, 9)[None]).logits, logits)


def test_the_noise_is_measured_in_deviations_of_the_subjects_embeddings(tiny, monkeypatch):
    shifts = []
    traced = 0.5, 0.1, [0.2] * tiny.depth
    monkeypatch.setattr("rrome.study.layer.trace", lambda model, fact, shift, kind: shifts.append(shift) or traced)
    trace_layers(tiny, KNOWN[:1], samples=3, seed=1)
    ids = [read_row(tiny, KNOWN[0]).ids[token] for token in subject_tokens(tiny, KNOWN[0])]
    embedded = tiny.lm.get_input_embeddings()(torch.tensor(ids))
    torch.testing.assert_close(shifts[0], 3 * embedded.std() * noise(tiny, KNOWN[0]))


def test_what_cannot_be_traced_is_named(tiny):
    with pytest.raises(RromeError, match="mother tongue of Bill Gates.*no target_true"):
        trace_layers(tiny, [FACTS[2]])
    with pytest.raises(RromeError, match="tracing needs facts"):
        trace_layers(tiny, [])
