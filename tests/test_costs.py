import pytest
import torch
from facts_for_tests import FACTS

from rrome import Search, load_facts
from rrome.model.load import outline
from rrome.model.site import blocks_of
from rrome.study import costs as costs_module
from rrome.study import speed
from rrome.study.costs import CHUNK, TEMPLATES, Costs, Rates, times
from rrome.update.batch import freeze


@pytest.fixture(scope="module")
def one_fact(tiny):
    """The only example fact, and a search's batch of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs_module, "EXAMPLES", 1)
        fact = load_facts("world", n=1, seed=0)[0]
        return Costs(tiny), freeze(tiny, [fact], TEMPLATES)[0]


def test_a_search_has_the_flops_of_its_floor(one_fact):
    costs, batch = one_fact
    flops, _ = speed.search_floor(batch.model, batch, Search().evaluations)
    assert sum(costs.search(1).values()) == pytest.approx(flops, rel=0.03)  # the row of the KL term is left out
    assert costs.search(3) == times(3, costs.search(1))
    assert sum(costs.search(1, at_once=4).values()) == sum(costs.search(1).values())
    assert max(rows for rows, _ in costs.search(1, at_once=1000)) == CHUNK


def test_tokens_are_those_that_pass_through_the_weights(tiny):
    costs = Costs(tiny)
    assert costs.below + costs.above == sum(
        weight.numel() for block in blocks_of(tiny.lm) for weight in speed.weights_of(speed.linear_maps(block))
    )
    assert sum(costs.text(100).values()) == 200 * (costs.below + costs.above + costs.head)
    assert costs.measure(2, 9)[CHUNK, "forward"] > costs.measure(2, 1)[CHUNK, "forward"]
    assert costs.second_moment(10)[CHUNK, "moment"] == 20 * costs.d_k**2


def test_shapes_are_enough(tiny_llama, tmp_path):
    tiny_llama.lm.save_pretrained(tmp_path)
    tiny_llama.tokenizer.save_pretrained(tmp_path)
    shapes = outline(tmp_path, layer=1)
    assert all(parameter.is_meta for parameter in shapes.lm.parameters())
    assert shapes.lm.num_parameters() == tiny_llama.lm.num_parameters()
    assert (shapes.site.path, shapes.layer) == (tiny_llama.site.path, 1)
    ours, theirs = Costs(shapes), Costs(tiny_llama)
    assert ours.search(1) == theirs.search(1) and ours.measure(1, 9) == theirs.measure(1, 9)


def test_a_rate_is_measured_once_for_each_kind_and_number_of_rows(tiny, monkeypatch):
    asked = []

    def seconds(products, back):
        asked.append((len(products), products[0][1], back))
        return 2.0

    monkeypatch.setattr(costs_module, "product_seconds", seconds)
    rates = Rates(tiny, torch.device("cpu"))
    weights = sum(weight.numel() for weight in rates._weights["forward"])
    assert rates.rate(7, "forward") == 2 * weights * 7 / 2.0
    load = {(7, "forward"): 10 * weights, (7, "back"): 4 * weights}
    assert rates.seconds(load) == rates.seconds(load) == pytest.approx(14 / 7)
    assert [(rows, back) for _, rows, back in asked] == [(7, False), (7, True)]


def test_real_products_of_every_kind_are_timed(tiny):
    rates = Rates(tiny, torch.device("cpu"))
    assert all(rates.rate(3, kind) > 0 for kind in ("forward", "back", "moment", "solve"))


def test_the_memory_of_a_search_is_of_the_size_of_what_autograd_keeps(tiny):
    costs = Costs(tiny)
    batch, kept = freeze(tiny, [FACTS[0]], ["{}"] * 21)[0], {}
    mine = {parameter.data_ptr() for parameter in tiny.lm.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in mine:
            kept[tensor.data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch.evaluate([torch.zeros(tiny.site.weight.shape[0], requires_grad=True)])
    live = int(batch.mask[:, -batch.ids.shape[1] :].sum())
    measured = sum(size for _, size in kept.values()) / live
    estimate = costs.search_memory(1) / costs.live
    assert 0.5 < estimate / measured < 2
