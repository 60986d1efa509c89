from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from rrome import RromeError
from rrome import plan as planning
from rrome.study.costs import Costs

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


class Steady:
    """A device that makes 1e9 FLOPs a second of everything."""

    def seconds(self, load):
        return sum(load.values()) / 1e9


@pytest.fixture(scope="module")
def costs(tiny_llama):
    return Costs(tiny_llama)


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


def planned(folder, costs, overhead=1.0):
    return planning.plan(folder, "mine", costs, Steady(), overhead).set_index("what")


def test_every_notebook_of_a_profile_has_a_line(costs):
    table = planning.plan(NOTEBOOKS, "smoke", costs, Steady(), 1.5)
    known = table[table["what"].isin(planning.WORK)]
    assert set(known["what"]) == set(planning.WORK) and list(table["what"][:2]) == ["the model", "C_0"]
    assert known.notna().all(axis=None) and (table["hours"].dropna() >= 0).all()
    assert (known.set_index("what")[["memory", "hours"]].loc[["03_delta_scatter", "04_collapse_curves"]] > 0).all(
        axis=None
    )


def test_more_edits_take_more_and_the_log_is_factors_and_lines(folder, costs):
    few = planned(folder("04_collapse_curves: {n_edits: 10, every: 10, tasks: []}"), costs)
    many = planned(folder("04_collapse_curves: {n_edits: 100, every: 100, tasks: []}"), costs)
    assert 9 < (many["hours"] / few["hours"])["04_collapse_curves"] < 10.5
    d_v, d_k = costs.model.site.weight.shape
    assert many.loc["04_collapse_curves", "disk"] == 300 * (4 * (d_v + d_k) + planning.LINE)
    assert many.loc["04_collapse_curves", "memory"] == few.loc["04_collapse_curves", "memory"]


def test_the_model_c_0_and_the_overhead(folder, costs):
    table = planned(folder("all: {c0_tokens: 3000}\n03_delta_scatter: {}\n05_metrics_table: {}"), costs, overhead=2.0)
    weights = 4 * costs.model.lm.num_parameters()
    assert table.loc["the model", "disk"] == weights and (table["memory"][1:3] > weights).all()
    assert table.loc["C_0", "hours"] == pytest.approx(2 * sum(costs.second_moment(3000).values()) / 1e9 / 3600)
    assert table.loc["C_0", "disk"] == 8 * costs.d_k**2
    assert table.loc["05_metrics_table", "hours"] == 0  # reads the study of notebook 3


def test_a_notebook_without_an_estimate_is_shown_as_unknown(folder, costs):
    notebooks = folder("11_new: {}\n01_the_update: {}")
    (notebooks / "11_new.ipynb").write_bytes((NOTEBOOKS / "01_the_update.ipynb").read_bytes())
    table = planned(notebooks, costs)
    assert table.loc["11_new"].isna().all() and table.loc["01_the_update", "hours"] == 0
    text = planning.report(table.reset_index(), costs, Steady(), torch.device("cpu"), 1.0)
    assert "unknown" in text and "hours        0.0 in all" in text


def test_mistakes_are_named(folder, costs):
    with pytest.raises(RromeError, match="no profile 'none' in"):
        planning.plan(NOTEBOOKS, "none", costs, Steady(), 1.0)
    with pytest.raises(RromeError, match=r"names notebooks that are not there: 99_lost\.ipynb"):
        planned(folder("99_lost: {}"), costs)
    with pytest.raises(RromeError, match="unknown parameter 'n_edit'"):
        planned(folder("04_collapse_curves: {n_edit: 10}"), costs)


def test_the_overhead_is_read_from_the_measured_speed(tmp_path):
    (tmp_path / "speed.csv").write_text("what,seconds_ours,floor_seconds\nsearch of v_e,4.5,3.0\n")
    assert planning.measured_overhead(tmp_path) == 1.5
    with pytest.raises(RromeError, match="absent.speed.csv has no measured search .*make bench"):
        planning.measured_overhead(tmp_path / "absent")


def run(*arguments):
    app = Typer()
    app.command()(planning.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_the_plan_and_reads_no_weights(tiny_llama, tmp_path, folder):
    notebooks, model = folder("03_delta_scatter: {}"), tmp_path / "model"
    tiny_llama.lm.config.save_pretrained(model)  # no weights at all
    tiny_llama.tokenizer.save_pretrained(model)
    (tmp_path / "speed.csv").write_text("what,seconds_ours,floor_seconds\nsearch of v_e,4.5,3.0\n")
    asked = ["--profile", "mine", "--model", model, "--device", "cpu", "--notebooks", notebooks, "--figures", tmp_path]
    result = run(*asked)
    assert result.exit_code == 0, result.output
    assert "03_delta_scatter" in result.output and "1.50 times its products" in result.output
    wrong = run(*asked[:3], "absent", *asked[4:])
    assert wrong.exit_code == 2 and "unknown model 'absent'" in wrong.output


def test_a_device_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(planning, "outline", lambda _: pytest.fail("went on"))
    result = run("--device", "cuda")
    assert result.exit_code == 2 and "no device 'cuda' here" in result.output
