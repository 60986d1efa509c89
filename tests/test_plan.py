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
03_delta_scatter: {n_ordinary: 7, n_first_token: 2, n_companies: 1}
03b_counterfact: {n_each: 5}
05_metrics_table: {n_ordinary: 7, n_first_token: 3}
04_collapse_curves: {n_edits: 10, every: 5, rules: [rome, aao], n_sink: 3}
07_speed: {}
10_second_moment: {n_ordinary: 1, n_first_token: 1, times_d_k: [1.0, 2.0, 3.0]}
A1_choosing_the_layer: {n_ordinary: 2, n_first_token: 1, n_companies: 1, layers: []}
A2_edits_survived: {n_edits: 4, orders: [1, 2, 3], rules: [rome, r-rome]}
"""
    table, parameters = plan.counts(folder(profile), "mine", depth=30)
    assert table.to_dict("index") == {
        "03_delta_scatter": {"facts": 10, "edits": 0, "checkpoints": 0},
        "03b_counterfact": {"facts": 15, "edits": 0, "checkpoints": 0},
        "04_collapse_curves": {"facts": 0, "edits": 29, "checkpoints": 6},
        "10_second_moment": {"facts": 6, "edits": 0, "checkpoints": 0},
        "A1_choosing_the_layer": {"facts": 120, "edits": 0, "checkpoints": 0},
        "A2_edits_survived": {"facts": 0, "edits": 24, "checkpoints": 6},
    }
    assert "07_speed" in parameters and parameters["04_collapse_curves"]["n_items"] == 80  # as committed


@pytest.mark.parametrize("profile", ["smoke", "laptop", "long", "paper"])
def test_every_profile_can_be_counted(profile):
    table, _ = plan.counts(NOTEBOOKS, profile)
    assert (table.sum(axis=1) > 0).all() and len(table) > 1


def test_profile_paper_edits_the_papers_own_sample():
    """The 5,000 cases of counterfact-paper: as many as every study draws from, and no study asks for more."""
    _, parameters = plan.counts(NOTEBOOKS, "paper")
    for name in ("03_delta_scatter", "04_collapse_curves", "05_metrics_table", "06_claims", "08_key_choices"):
        asked = parameters[name]
        assert asked["dataset"] == "counterfact-paper" and asked.get("n_known", 5000) == 5000, name
        assert asked.get("n_ordinary", 0) + asked.get("n_first_token", 0) <= 5000, name
    assert parameters["04_collapse_curves"]["n_edits"] == 5000


def test_mistakes_are_named(folder):
    with pytest.raises(RromeError, match="no profile 'none' in"):
        plan.counts(NOTEBOOKS, "none")
    with pytest.raises(RromeError, match=r"names notebooks that are not there: 99_lost\.ipynb"):
        plan.counts(folder("99_lost: {}"), "mine")
    with pytest.raises(RromeError, match="unknown parameter 'n_edit'"):
        plan.counts(folder("04_collapse_curves: {n_edit: 10}"), "mine")


def planned(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_the_command_makes_the_edits_of_the_studies_and_counts_them_up(saved, folder, no_cache, monkeypatch):
    """The work is done, by a clock that gives every part 36 s: a batch of 4 facts, an edit, a checkpoint, C_0."""
    monkeypatch.setattr(plan, "timed", lambda work, device: (36, speed.timed(work, device)[1]))
    notebooks = folder(
        "03_delta_scatter: {n_ordinary: 3, n_first_token: 2, n_companies: 0, n_generated: 2, c0_tokens: 20000}\n"
        "04_collapse_curves: {n_items: 4, n_edits: 6, every: 3, n_sink: 0, rules: [rome, r-rome, p-rome], c0_tokens: 20000}"
    )
    asked = ["--profile", "mine", "--model", saved, "--device", "cpu", "--notebooks", notebooks]
    result = planned(*asked)
    assert result.exit_code == 0, result.output
    lines = {words[0]: words[1:] for line in result.output.splitlines() if (words := line.split())}
    assert lines["03_delta_scatter"] == ["5", "0", "0", "0.01"]  # 5 * 9 s
    assert lines["04_collapse_curves"] == ["0", "18", "9", "0.27"]  # 27 * 36 s
    c0 = 0.01 * 20_000 / (2 * 64)
    assert lines["hours"][:5] == [f"{5 / 400 + 0.27 + c0:.2f}", "in", "all,", f"{c0:.2f}", "of"]
    assert not list(no_cache.glob("second_moments/*"))  # nothing of it stays
    wrong = planned(*asked[:3], "absent", *asked[4:])
    assert wrong.exit_code == 2 and "unknown model 'absent'" in wrong.output


def test_a_device_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    result = planned("--device", "cuda", "--notebooks", NOTEBOOKS, "--profile", "smoke")
    assert result.exit_code == 2 and "no device 'cuda' here" in result.output
