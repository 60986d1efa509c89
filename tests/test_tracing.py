import pytest
import torch
from conftest import make_model
from facts_for_tests import FACTS
from families import FAMILIES

from rrome import Fact, RromeError
from rrome.model.site import find_site
from rrome.model.tokens import read_row, subject_tokens
from rrome.study.layer import embedding_deviation, trace, trace_layers

KNOWN = [
    Fact("{} is located in the continent of", "Italy", "Antarctica", target_true="Europe"),
    Fact("The Eiffel Tower, or {}, is in the city of", "The Eiffel Tower", "Rome", target_true="Paris"),
]


@pytest.fixture(scope="module", params=["gpt2", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "gemma3"])
def model(request):
    return make_model(FAMILIES[request.param])


def noise(model, fact, samples=3, scale=1.0):
    width = model.lm.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(samples, len(subject_tokens(model, fact)), width, generator=generator)


def naive_trace(model, fact, shift, kind, layers):
    """p and p*(layers) one noise sample at a time: a clean run to remember the state, then a noised run to put it back."""
    row = read_row(model, fact, target=fact.target_true)
    sites = [find_site(model.lm, layer) for layer in layers]
    parts = [site.block if kind == "hidden" else site.module for site in sites]
    kept, probabilities = {}, []

    def at_subject(out):
        return (out[0] if isinstance(out, tuple) else out).view(-1, model.lm.config.hidden_size)[row.subject]

    def run():
        log_probs = model.lm(input_ids=torch.tensor([row.ids[:-1]])).logits[0].log_softmax(-1)
        places = range(len(row.ids) - 1 - row.n_target, len(row.ids) - 1)
        return torch.stack([log_probs[place, row.ids[place + 1]] for place in places]).mean().exp().item()

    def add_noise(sample, out):
        tokens = subject_tokens(model, fact)
        out[0, tokens.start : tokens.stop] += sample

    def keep(part, _args, out):
        kept[part] = at_subject(out).clone()

    def put_back(part, _args, out):
        at_subject(out).copy_(kept[part])

    handles = [part.register_forward_hook(keep) for part in parts]
    clean = run()
    for handle in handles:
        handle.remove()
    for sample in shift:
        handles = [
            model.lm.get_input_embeddings().register_forward_hook(lambda _, _args, out, n=sample: add_noise(n, out)),
            *(part.register_forward_hook(put_back) for part in parts),
        ]
        probabilities.append(run())
        for handle in handles:
            handle.remove()
    return clean, sum(probabilities) / len(probabilities)


@pytest.mark.parametrize(
    ("kind", "window", "layers"),
    [("hidden", 1, {0: [0], 2: [2]}), ("mlp", 1, {0: [0], 2: [2]}), ("mlp", 2, {0: [0], 3: [2, 3]})],
)
def test_every_layer_equals_one_run_at_a_time(model, kind, window, layers):
    fact = KNOWN[1]
    shift = noise(model, fact)
    clean, _, mended = trace(model, fact, shift, kind, window)
    for layer, restored in layers.items():
        expected_clean, expected = naive_trace(model, fact, shift, kind, restored)
        assert clean == pytest.approx(expected_clean, rel=1e-4)
        assert mended[layer] == pytest.approx(expected, rel=1e-4)


def test_putting_back_the_only_changed_state_gives_the_clean_probability(model):
    fact = Fact("A cold town called {}", "Paris", "Antarctica", target_true="Rome")
    assert len(subject_tokens(model, fact)) == read_row(model, fact, target="Rome").n_target == 1
    clean, noised, mended = trace(model, fact, noise(model, fact), "hidden")
    assert mended == pytest.approx([clean] * model.depth, rel=1e-4)
    assert abs(noised - clean) > 1e-2 * clean


def test_no_noise_has_no_effect(model):
    clean, noised, mended = trace(model, KNOWN[0], noise(model, KNOWN[0], scale=0.0), "mlp", window=3)
    assert [noised, *mended] == pytest.approx([clean] * (1 + model.depth), rel=1e-5)


def test_a_window_of_one_layer_and_of_all_layers_differ_and_the_last_block_is_too_late(model):
    shift = noise(model, KNOWN[0])
    _, noised, hidden = trace(model, KNOWN[0], shift, "hidden")
    _, _, narrow = trace(model, KNOWN[0], shift, "mlp")
    _, _, wide = trace(model, KNOWN[0], shift, "mlp", window=2 * model.depth)
    assert hidden[-1] == pytest.approx(noised, rel=1e-5)
    assert wide == pytest.approx([wide[0]] * model.depth, rel=1e-5)
    assert narrow != pytest.approx(wide, rel=1e-3)


def test_the_frame_is_tidy_seeded_and_leaves_the_model_alone(model):
    logits = model.lm(input_ids=torch.arange(1, 9)[None]).logits
    frame = trace_layers(model, KNOWN, samples=2, seed=3)
    assert list(frame) == ["layer", "kind", "effect", "low", "high", "total"]
    assert len(frame) == 2 * model.depth and (frame["low"] <= frame["high"]).all()
    assert frame.equals(trace_layers(model, KNOWN, samples=2, seed=3))
    assert not frame.equals(trace_layers(model, KNOWN, samples=2, seed=4))
    assert torch.equal(model.lm(input_ids=torch.arange(1, 9)[None]).logits, logits)


def test_the_noise_is_measured_in_deviations_of_the_subjects_embeddings(model):
    fact = KNOWN[0]
    ids = [read_row(model, fact).ids[token] for token in subject_tokens(model, fact)]
    embedded = model.lm.get_input_embeddings()(torch.tensor(ids))
    assert embedding_deviation(model, [fact]) == pytest.approx(embedded.std().item())


def test_what_cannot_be_traced_is_named(model):
    with pytest.raises(RromeError, match="mother tongue of Bill Gates.*no target_true"):
        trace_layers(model, [FACTS[2]])
    with pytest.raises(RromeError, match="kinds among hidden, mlp: got \\['attention'\\]"):
        trace_layers(model, KNOWN, kinds=["attention"])
    for facts, kinds in (([], ["mlp"]), (KNOWN, [])):
        with pytest.raises(RromeError, match="tracing needs facts, and kinds"):
            trace_layers(model, facts, kinds=kinds)
