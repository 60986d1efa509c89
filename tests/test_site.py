import pytest
import torch
from families import FAMILIES, make_model
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig

from rrome import RromeError
from rrome.model.site import find_site


@pytest.fixture
def edits(tiny):
    yield tiny.edits
    tiny.edits.set(())


def test_the_site_is_the_down_projection_and_its_value_what_the_module_computes(family):
    weight = family.site.weight
    assert weight.shape[0] == family.lm.config.hidden_size < weight.shape[1]
    key = torch.randn(5, weight.shape[1])
    torch.testing.assert_close(family.site.value(key), family.site.module(key))


@pytest.mark.parametrize("layer", [-1, 4, 2.0, None])
def test_a_layer_out_of_range_is_named(tiny, layer):
    with pytest.raises(RromeError, match=r"layer .* out of range.*0 to 3"):
        find_site(tiny.lm, layer)


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_local_experts=2, vocab_size=50),
        MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50),
    ],
    ids=lambda config: config.model_type,
)
def test_blocks_without_one_dense_mlp_are_refused_with_what_was_looked_for(config):
    lm = AutoModelForCausalLM.from_config(config)
    with pytest.raises(RromeError, match=r"not supported.*among mlp\.down_proj, mlp\.c_proj.*fc2"):
        find_site(lm, 1)


def test_quantised_weights_are_refused():
    lm = make_model(FAMILIES["llama"]).lm
    module = find_site(lm, 1).module
    module.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(RromeError, match="down_proj.*is stored as uint8.*load the model in float"):
        find_site(lm, 1)


def test_states_are_the_same_bit_for_bit_however_they_are_reached(tiny, edits, updates):
    original, states = tiny.site.weight.clone(), {}
    for n in range(4):
        edits.set(updates[:n])
        states[n] = tiny.site.weight.clone()
    for n in (2, 0, 3, 1, 1):
        edits.set(updates[:n])
        assert torch.equal(tiny.site.weight, states[n]) and edits.updates == tuple(updates[:n])
    edits.set(())
    assert torch.equal(tiny.site.weight, original) and len(edits) == 0


def test_distance_is_the_norm_of_all_that_changed(tiny, edits, updates):
    original = tiny.site.weight.clone()
    assert edits.distance == edits.size == 0
    for update in updates:
        edits.put(update)
    expected = (tiny.site.weight - original).norm().item()
    assert edits.distance == pytest.approx(expected, rel=1e-6)
    assert edits.size == pytest.approx(expected / original.numel(), rel=1e-6)


def test_a_bad_update_changes_nothing(tiny, edits, updates):
    before = tiny.site.weight.clone()
    broken = type(updates[0])(updates[0].left * torch.nan, updates[0].right, "rome", "Italy", 1.0, 1.0)
    with pytest.raises(RromeError, match="'Italy' under 'rome' holds NaN or infinity"):
        edits.set([updates[1], broken])
    assert torch.equal(tiny.site.weight, before) and not edits.updates


def test_another_layer_has_edits_of_its_own(tiny, edits, updates):
    edits.put(updates[0])
    assert tiny.at_layer(tiny.layer) is tiny and not tiny.at_layer(2).edits.updates
