import pytest
import torch

from rrome import RromeError
from rrome.model.site import find_site


def test_the_site_is_the_down_projection(tiny):
    weight = tiny.site.weight
    hidden = tiny.lm.config.hidden_size
    assert weight.shape[0] == hidden and weight.shape[1] > hidden
    assert tiny.site.path.split(".")[-2] == "mlp"


def test_value_is_what_the_module_computes(tiny):
    key = torch.randn(5, tiny.site.weight.shape[1])
    torch.testing.assert_close(tiny.site.value(key), tiny.site.module(key))


@pytest.mark.parametrize("layer", [-1, 4, 2.0, "1", None])
def test_a_layer_out_of_range_is_named(tiny, layer):
    with pytest.raises(RromeError, match=r"layer .* out of range.*0 to 3"):
        find_site(tiny.lm, layer)


def test_an_unknown_mlp_is_refused_with_what_was_looked_for(tiny_llama):
    class Strange(torch.nn.Module):
        pass

    block = tiny_llama.lm.model.layers[0]
    mlp, block.mlp = block.mlp, Strange()
    try:
        with pytest.raises(RromeError, match=r"not supported.*mlp\.down_proj"):
            find_site(tiny_llama.lm, 0)
    finally:
        block.mlp = mlp
