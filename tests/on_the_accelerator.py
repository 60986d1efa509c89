"""What is public on the pretend accelerator, against the same on the CPU: run by test_accelerator in its own process.

`save_merged` is missing: safetensors asks each weight of the model for its memory, which only a real device has.
"""

import pytest
import torch
from accelerator import DEVICE, NAME, Accelerator, moved, register
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, make_model, random_texts

import rrome
from rrome import EditLog, Editor, Search
from rrome.measure.scores import perplexity
from rrome.study import Checks, Measures

register()
TEXTS = random_texts()
MEASURED = [fact for fact in FACTS if fact.target_true][:2]


def made(family, dtype, on=None) -> Editor:
    """An editor of a new tiny model on the CPU, or on the device."""
    model = make_model(FAMILIES[family])
    lm = model.lm.to(dtype)
    model = rrome.wrap(moved(lm) if on else lm, model.tokenizer, 1)
    return Editor(
        model, rrome.second_moment(model, TEXTS, 3000, cache=False), prefixes=PREFIXES, search=Search(evaluations=6)
    )


@pytest.fixture
def device():
    """One without float64, as a Mac's."""
    with Accelerator(float64=False) as accelerator:
        yield accelerator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_an_edit_equals_the_cpus(family, dtype, device):
    here, there = made(family, dtype), made(family, dtype, on=DEVICE)
    assert there.model.device.type == NAME and there.model.fingerprint == here.model.fingerprint
    exact = 1e-4 if dtype == torch.float32 else 0.2
    solutions = here.solve(FACTS[0]), there.solve(FACTS[0])
    before = there.model.site.weight.cpu()
    for rule in rrome.RULES:
        cpu, update = (solution.update(rule) for solution in solutions)
        assert (update.matrix().cpu() - cpu.matrix()).norm() < exact * cpu.norm
        assert there.preflight(FACTS[0]).denominator[rule] == pytest.approx(update.denominator, rel=1e-3)
        with there.applied(update):
            assert there.model.edits.distance > 0
        assert torch.equal(there.model.site.weight.cpu(), before)
    if dtype == torch.float32:
        prompts = ["The old town", "A"]
        assert rrome.generate(there.model, prompts, 5) == rrome.generate(here.model, prompts, 5)
        assert perplexity(there.model, TEXTS[:2], 200) == pytest.approx(
            perplexity(here.model, TEXTS[:2], 200), rel=1e-4
        )


@pytest.mark.parametrize(
    "family, dtype", [("llama", torch.float32), ("gpt2", torch.bfloat16), ("gemma3", torch.float32)]
)
def test_studies_logs_and_saving(family, dtype, device, tmp_path):
    editor = made(family, dtype, on=DEVICE)
    model, before = editor.model, editor.model.site.weight.cpu()
    measures, checks = Measures(n_generated=5, probe=TEXTS[0]), Checks(every=1, probe=TEXTS[0])
    table = rrome.single_edits(editor, MEASURED, tmp_path / "rows.jsonl", rules=["rome", "aao"], measures=measures)
    assert len(table) == 6 and table["perplexity"].notna().all()
    rrome.sequential_edits(editor, MEASURED[:1], tmp_path / "run", rule="r-rome", checks=checks)
    run = rrome.sequential_edits(editor, MEASURED, tmp_path / "run", rule="r-rome", checks=checks)
    assert len(run.edits) == 2 and run.edits["error"].isna().all()
    log = EditLog(tmp_path / "run")
    log.replay(model)
    edited = model.site.weight.cpu()
    editor.save(tmp_path / "adapter")
    log.replay(model, 0)
    assert torch.equal(model.site.weight.cpu(), before)
    EditLog(tmp_path / "adapter").replay(model)
    assert torch.equal(model.site.weight.cpu(), edited)


def test_the_host_waits_once_an_evaluation(device):
    editor, waits = made("llama", torch.float32, on=DEVICE), {}
    for evaluations in (5, 15):
        editor.search, start = Search(evaluations=evaluations, stop_loss=0), device.waits
        editor.solve_all(MEASURED)
        waits[evaluations] = device.waits - start
    assert waits[15] - waits[5] == 10


def test_tensors_of_two_devices_and_float64_are_refused():
    with Accelerator(float64=False) as device:
        here = torch.ones(2).to(DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            here + torch.ones(2)
        with pytest.raises(TypeError, match="no float64"):
            here.double()
        assert (here.sum().item(), here.tolist(), device.waits) == (2, [1, 1], 2)
