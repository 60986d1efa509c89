from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from rrome import RromeError, plan
from rrome.study import speed

APP = typer.Typer()
APP.command()(plan.main)
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def folder(tmp_path):
    """The kit's notebooks with a profile that a test writes."""

    def write(profile):
        (tmp_path / "profiles").mkdir(exist_ok=True)
        (tmp_path / "profiles" / "mine.yaml").write_text(profile)
        for path in NOTEBOOKS.glob("*.ipynb"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return write


def test_facts_edits_and_checkpoints_of_a_profile_are_counted(folder):
    profile = """
03_delta_scatter: {n_ordinary: 7, n_first_token: 3}
05_metrics_table: {n_ordinary: 7, n_first_token: 3}
04_collapse_curves: {n_edits: 10, every: 5}
07_speed: {}
10_second_moment: {n_ordinary: 1, n_first_token: 1, times_d_k: [1.0, 2.0, 3.0]}
A2_edits_survived: {n_edits: 4, orders: [1, 2, 3], rules: [rome, r-rome]}
"""
    table, parameters = plan.counts(folder(profile), "mine")
    assert table.to_dict("index") == {
        "03_delta_scatter": {"facts": 10, "edits": 0, "checkpoints": 0},
        "04_collapse_curves": {"facts": 0, "edits": 30, "checkpoints": 6},
        "10_second_moment": {"facts": 6, "edits": 0, "checkpoints": 0},
        "A2_edits_survived": {"facts": 0, "edits": 24, "checkpoints": 0},
    }
    assert "07_speed" in parameters and parameters["04_collapse_curves"]["n_items"] == 40  # as committed


@pytest.mark.parametrize("profile", ["smoke", "laptop", "long", "paper"])
def test_every_profile_can_be_counted(profile):
    table, _ = plan.counts(NOTEBOOKS, profile)
    assert (table.sum(axis=1) > 0).all() and len(table) > 1


def test_mistakes_are_named(folder):
    with pytest.raises(RromeError, match="no profile 'none' in"):
        plan.counts(NOTEBOOKS, "none")
    with pytest.raises(RromeError, match=r"names notebooks that are not there: 99_lost\.ipynb"):
        plan.counts(folder("99_lost: {}"), "mine")
    with pytest.raises(RromeError, match="unknown parameter 'n_edit'"):
        plan.counts(folder("04_collapse_curves: {n_edit: 10}"), "mine")


def planned(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_the_command_makes_the_edits_of_the_studies_and_counts_them_up(tiny_llama, tmp_path, folder, no_cache):
    notebooks, model = folder("03_delta_scatter: {n_generated: 2}\nA2_edits_survived: {}"), tmp_path / "model"
    tiny_llama.lm.save_pretrained(model)
    tiny_llama.tokenizer.save_pretrained(model)
    asked = ["--profile", "mine", "--model", model, "--device", "cpu", "--notebooks", notebooks]
    result = planned(*asked)
    assert result.exit_code == 0, result.output
    assert "03_delta_scatter" in result.output and "What it rests on" in result.output
    assert not list(no_cache.rglob("*")) if no_cache.exists() else True
    wrong = planned(*asked[:3], "absent", *asked[4:])
    assert wrong.exit_code == 2 and "unknown model 'absent'" in wrong.output


def test_an_edit_costs_what_it_is_timed_to_cost(tiny_llama, tmp_path, folder, no_cache, monkeypatch):
    """With a clock that gives every part 3.6 s: a batch of 4 facts, an edit, a checkpoint, C_0."""
    monkeypatch.setattr(plan, "timed", lambda work, device: (3.6, speed.timed(work, device)[1]))
    monkeypatch.setattr(plan, "load", lambda *_, **__: tiny_llama)
    profile = "03_delta_scatter: {n_ordinary: 3, n_first_token: 1, n_generated: 1}\n04_collapse_curves: {n_edits: 2, every: 2}"
    lines = plan.plan(folder(profile), "mine", "any", "cpu").splitlines()
    hours = {line.split()[0]: line.split()[-1] for line in lines if line[:3] in ("03_", "04_")}
    c0 = 3.6 * 20_000 / (2 * 64) / 3600
    assert hours == {"03_delta_scatter": "0.00", "04_collapse_curves": "0.01"}
    assert f"hours   {4 * 0.9 / 3600 + (6 * 3.6 + 3 * 3.6) / 3600 + c0:.2f} in all, {c0:.2f} of them for C_0" in lines


def test_a_device_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    result = planned("--device", "cuda", "--notebooks", NOTEBOOKS, "--profile", "smoke")
    assert result.exit_code == 2 and "no device 'cuda' here" in result.output
