"""What the kit gives on a pretend accelerator (see accelerator.py) is what it gives on the CPU."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import accelerator
import pandas as pd
import pytest
import torch
from facts_for_tests import FACTS, PREFIXES
from families import FAMILIES, make_model, random_texts
from torch.nn.attention import SDPBackend, sdpa_kernel

import rrome
from rrome import measure, study

PROMPTS = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("Paris is",), "generation": ("The town",)}
EDITS = [replace(fact, target_true="Paris", case_id=n, **PROMPTS) for n, fact in enumerate(FACTS[:3])]
TEXTS = random_texts(20)
FULL, HALF = torch.float32, torch.bfloat16
NO_DOUBLE = [torch.float64]


@pytest.fixture(scope="module")
def there():
    """Calls a function of this file in a process with the pretend accelerator, which refuses float64 unless said otherwise."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot register a device in Python")
    with ProcessPoolExecutor(1, get_context("spawn"), accelerator.register) as process:
        yield lambda *call, refused=NO_DOUBLE: process.submit(refusing, refused, *call).result()


def refusing(dtypes, function, *arguments):
    accelerator.refused.clear()
    accelerator.refused.update(dtypes)
    return function(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny models on disk."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "llama", "gemma3"):
        model = make_model(FAMILIES[family])
        model.lm.save_pretrained(folder / family)
        model.tokenizer.save_pretrained(folder / family)
    return folder


def opened(device: str | None, folder: Path, dtype=FULL, evaluations=8, stop_loss=0.0) -> rrome.Editor:
    """An editor on the CPU or, for None, on what torch says is the accelerator."""
    model = rrome.load(folder, device=device, dtype=dtype, layer=1)
    assert model.device.type == (device or accelerator.NAME)
    search = rrome.Search(evaluations=evaluations, stop_loss=stop_loss)
    return rrome.Editor(model, rrome.second_moment(model, TEXTS, None, cache=False), PREFIXES, search=search)


def edited(device: str | None, folder: Path, dtype: torch.dtype, out: Path) -> dict[str, Any]:
    """What an editor gives, and the adapter and the model that it saves in `out`."""
    editor = opened(device, folder, dtype, stop_loss=5.875)  # one of the three searches ends before the others
    solutions, original = editor.solve_all(EDITS), editor.model.site.weight.clone()
    updates = {rule: solutions[0].update(rule) for rule in rrome.RULES}
    found = {"C_0": editor.second_moment.matrix, "keys": editor.keys(EDITS[0]).all}
    found |= {rule: update.matrix() for rule, update in updates.items()}
    with editor.applied(updates["p-rome"]):
        editor.apply(updates["r-rome"])
        found |= {"W": editor.model.site.weight.clone(), "text": rrome.generate(editor.model, ["The town", "A"], 8)}
        found |= {"perplexity": measure.perplexity(editor.model, TEXTS, 300)}
        editor.save(out / "adapter")
        editor.save_merged(out / "merged")
        editor.revert()
    assert torch.equal(editor.model.site.weight, original)
    found |= {
        "steps": [solution.value.steps for solution in solutions],
        "prefixes": len(rrome.Editor(editor.model, editor.second_moment).prefixes),
    }
    return {name: each.cpu() if isinstance(each, torch.Tensor) else each for name, each in found.items()}


CASES = [("gpt2", FULL, []), ("llama", FULL, NO_DOUBLE), ("gemma3", FULL, NO_DOUBLE)]
CASES += [("gpt2", HALF, NO_DOUBLE), ("llama", HALF, []), ("gemma3", HALF, NO_DOUBLE)]


@pytest.mark.parametrize("family, dtype, refused", CASES)
def test_an_edit_is_that_of_the_cpu(there, folder, tmp_path, family, dtype, refused):
    with sdpa_kernel(SDPBackend.MATH):  # the device's; another one rounds half precision in another order
        expected = edited("cpu", folder / family, dtype, tmp_path / "cpu")
    found = there(edited, None, folder / family, dtype, tmp_path, refused=refused)
    assert list(found) == list(expected)
    for name, number in expected.items():
        if isinstance(number, torch.Tensor):
            assert (found[name] - number).norm() <= 1e-5 * number.norm(), name
        else:
            assert found[name] == (pytest.approx(number) if name == "perplexity" else number), name
    merged, plain = (
        rrome.load(path, device="cpu", dtype=dtype, layer=1) for path in (tmp_path / "merged", folder / family)
    )
    rrome.EditLog(tmp_path / "adapter").replay(plain)
    assert torch.equal(merged.site.weight, found["W"]) and torch.equal(plain.site.weight, found["W"])


def studied(device: str | None, folder: Path, dtype: torch.dtype, out: Path) -> list[pd.DataFrame]:
    """The tables of the two studies, the sequence stopped after its first edit, and a state of its log."""
    editor = opened(device, folder, dtype, 3)
    measures = study.Measures(n_generated=3, probe=TEXTS[0], generated=["rome"])
    checks = study.Checks(probe=TEXTS[0], tasks=[measure.agreement_task(1)], prompts=["A ship"], n_generated=3)
    single = study.single_edits(editor, EDITS, out / "single.jsonl", rules=["rome", "aoa"], measures=measures)
    _, run = [study.sequential_edits(editor, EDITS[:n], out / "run", checks=checks) for n in (1, 2)]
    log = rrome.EditLog(out / "run")
    log.replay(editor.model, 1)
    state = pd.DataFrame({"distance": [editor.model.edits.distance]})
    log.replay(editor.model, 0)
    log.export(editor.model, out / "exported")
    return [single, run.edits, run.checkpoints, run.final, state]


def studied_more(device: str | None, folder: Path, dtype: torch.dtype, _out: Path) -> list[pd.DataFrame]:
    """The tables of the other studies."""
    editor = opened(device, folder, dtype, 2)
    model, update = editor.model, editor.update(EDITS[0], "rome")
    bare = rrome.Editor(model, editor.second_moment, ["{}"], search=editor.search)
    assert device or (study.against_batched(bare, EDITS[0])["relative_error"] < 1e-4).all()
    return [
        study.what_it_says(editor, EDITS[0], {"rome": update}, ["The town"], TEXTS[:1], n_generated=3, n_perplexity=99),
        study.trace_layers(model, EDITS[:1], samples=2),
        study.sink_survey(model, ["e"], "Italy"),
        study.leading_edits(editor, EDITS[:1], ["", "e"]),
        study.text_sizes(editor, EDITS[:1], TEXTS, [999]).drop(columns="seconds"),
        study.preflights(editor, EDITS),
        study.stages(bare, EDITS[0])[["what"]],
    ]


@pytest.mark.parametrize(
    "made, family, dtype", [(studied, "llama", FULL), (studied, "gpt2", HALF), (studied_more, "gemma3", FULL)]
)
def test_studies_are_those_of_the_cpu(there, folder, tmp_path, no_cache, made, family, dtype):
    with sdpa_kernel(SDPBackend.MATH):
        expected = made("cpu", folder / family, dtype, tmp_path / "cpu")
    found = there(made, None, folder / family, dtype, tmp_path / "there")
    for table, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(table, other)


def waits(folder: Path, evaluations: int) -> int:
    """How often the host waits for the device in a search of three facts."""
    editor = opened(None, folder, evaluations=evaluations)
    accelerator.waits.clear()
    editor.solve_all(EDITS)
    return accelerator.waits.total()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_the_search_waits_for_the_device_once_per_evaluation(there, folder, family):
    few, more = (there(waits, folder / family, evaluations) for evaluations in (2, 6))
    assert more - few == 4


def seed_after_generation(folder: Path) -> int:
    torch.manual_seed(7)
    rrome.generate(opened(None, folder).model, ["The town"], 2)
    return torch.pretend.seed


def test_generation_leaves_the_devices_random_state(there, folder):
    assert there(seed_after_generation, folder / "gpt2") == 7


def strictness() -> list[str]:
    ones, on_cpu = torch.ones(2, 2, device=accelerator.NAME), torch.ones(2, 2)
    said = []
    for mixed in (lambda: ones + on_cpu, lambda: on_cpu @ ones, ones.double, lambda: ones.to("cpu", torch.float64)):
        with pytest.raises((RuntimeError, TypeError)) as error:
            mixed()
        said.append(str(error.value))
    accelerator.waits.clear()
    _ = ones.sum().item(), ones.tolist(), ones[ones > 0], ones.cpu(), bool(torch.equal(ones, ones)), on_cpu.to(ones)
    return [*said, str(accelerator.waits.total()), str((ones * 2).T.addr_(ones[0], ones[1]).tolist())]


def test_the_pretend_accelerator_is_as_strict_as_a_real_one(there):
    *said, waited, made = there(strictness)
    assert [text.rpartition("on ")[2] for text in said[:2]] == ["tensors of two devices"] * 2
    assert all("pretend" in text for text in said[2:])
    assert waited == "6" and made == "[[3.0, 3.0], [3.0, 3.0]]"
