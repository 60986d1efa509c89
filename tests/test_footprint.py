import pytest
import torch
from facts_for_tests import FACTS

from rrome import Editor, second_moment
from rrome.facts.text import factbook_prose
from rrome.study.costs import Costs
from rrome.study.footprint import footprint, peak_bytes


def test_tensors_count_while_they_exist():
    there = torch.ones(1000)

    def work():
        first = there * 2  # 4,000 bytes
        second = torch.cat([first, first])  # 8,000 more
        del first
        view = second.view(2, 1000).T[:5]  # none
        return torch.ones(500) + view.sum()  # 2,000 twice, and a number, beside the 8,000

    made, peak = peak_bytes(work)
    assert len(made) == 500 and peak == 4_000 + 8_000 + 4


def test_what_the_gradient_needs_counts():
    weight = torch.ones(100, 100, requires_grad=True)
    _, kept = peak_bytes(lambda: (weight @ weight).relu().exp().sum().backward())
    _, unkept = peak_bytes(torch.no_grad()(lambda: (weight @ weight).relu().exp().sum()))
    assert kept > 3 * weight.nbytes >= unkept


def test_an_edit_makes_no_second_copy_of_the_model(default_model):
    templates = ["{}", *["and the sea is blue. {}"] * 20]
    editor = Editor(default_model, second_moment(default_model, factbook_prose("second-moment"), 2_000), templates)
    table = footprint(editor, FACTS[0], ["rome", "r-rome"]).set_index("what")["megabytes"]
    model = table["the model's weights"]
    assert model == pytest.approx(538.06, abs=0.01)
    assert table["search of v_e"] < model / 3
    assert table["search of v_e"] == pytest.approx(Costs(default_model).search_memory(1) / 1e6, rel=0.5)
    assert table["updates under 2 rules"] < 2 * table["W"]
