"""What README, docs and CONTRIBUTING say of files, commands, code and numbers is so."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pandas as pd
import pytest
from facts_for_tests import FACTS

import rrome.study.cluster
from rrome import measure
from rrome.study import safety

ROOT = Path(__file__).parent.parent
README, GUIDES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *GUIDES]
TEXT = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINKS = [(page, link) for page in PAGES for link in sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT[page.stem])))]
WITH_CODE = [page.stem for page in (README, *GUIDES) if "```python" in TEXT[page.stem]]


def accepted(name):
    """The rows of an accepted table."""
    with open(ROOT / "figures" / "data" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(text):
    """The absolute values of the numbers in a text; "C2" and "SmolLM2" hold none."""
    return {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", text)}


def test_the_readme_is_short():
    assert len(TEXT["README"].splitlines()) <= 110


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page.stem}-{link}" for page, link in LINKS])
def test_every_link_leads_to_a_file(page, link):
    assert Path(os.path.normpath(page.parent / link)).exists()


@pytest.mark.parametrize("path", [*NOTEBOOKS, *GUIDES], ids=lambda path: path.stem)
def test_every_notebook_and_guide_is_listed(path):
    assert f"]({path.relative_to(ROOT).as_posix()})" in TEXT["README"]


def test_every_make_target_named_exists():
    makefile, text = (ROOT / "Makefile").read_text(), "\n".join(TEXT.values())
    for target in set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^    make ([a-z-]+)", text, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_named_exists(page):
    for path in re.findall(r"`((?:rrome|tests|notebooks|docs|book|figures)/[\w./-]*)`", TEXT[page.stem]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_runs(page, editor, tmp_path, monkeypatch, capsys):
    """As it stands, from top to bottom, on a tiny model; what would download or start workers is checked by signature."""
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("A ship is",)}
    facts = [replace(fact, **prompts) for fact in FACTS if fact.target_true]
    stands_for = {
        (rrome, "load"): editor.model,
        (rrome, "load_facts"): facts,
        (rrome.edit, "load_editor"): editor,
        (rrome.study, "draw_facts"): facts,
        (rrome.study.cluster, "single_edits"): None,
        (rrome.study.cluster, "sequential_edits"): None,
        (rrome.update, "second_moment_from"): editor.second_moment,
    }
    for (module, name), result in stands_for.items():
        monkeypatch.setattr(module, name, create_autospec(getattr(module, name), return_value=result))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in re.findall(r"```python\n(.*?)```", TEXT[page], flags=re.DOTALL):
        exec(block, namespace)
    assert len(editor.model.edits) == 0
    if page == "README":
        assert {"rome", "r-rome", "p-rome"} <= set(capsys.readouterr().out.split())


def test_the_verdicts_and_their_numbers_are_those_that_were_computed():
    claims, rome = accepted("claims"), [row for row in accepted("fig3_collapse_rome") if row["rule"] == "rome"]
    verdicts = {row["id"]: row["verdict"] for row in claims}
    found = {each: numbers(" ".join(row["found"] for row in claims if row["id"] == each)) for each in verdicts}
    collapse = float(rome[-1]["perplexity"]) / float(rome[0]["perplexity"])
    found["C7"].add(round(collapse, 1))  # C7 compares with it
    told = re.findall(r"^\| (C\d+) \|.*\| (.*) \| ([a-z, ]+) \|$", TEXT["README"], re.M)
    assert {each: verdict for each, _, verdict in told} == verdicts
    assert {each: numbers(here) - found[each] for each, here, _ in told} == {each: set() for each in verdicts}


def test_what_the_readme_says_of_first_token_subjects_was_computed():
    table = {row["rule"]: row for row in accepted("table1_first_token_subjects")}
    shares = [round(float(table[rule]["ES"])) for rule in ("r-rome", "p-rome", "unedited")]
    sentence = "ES {} and {}, against {} unedited; {} facts".format(*shares, table["rome"]["facts"])
    assert sentence in TEXT["README"].replace("\n", " ")


def test_the_layers_are_those_that_were_measured():
    measured = {row["layer"]: row for row in accepted("layer_choice")}
    told = re.findall(r"^\| \**(\d+)\** \| (.*) \|$", TEXT["models"], re.M)
    assert len(told) > 5
    for layer, cells in told:
        row = {name: float(number) for name, number in measured[layer].items()}
        shares = " | ".join(f"{row[name]:.2f}" for name in ("ES", "PS", "NS"))
        broken = " | ".join(f"{row[f'broken_{rule}']:.0f}" for rule in rrome.update.NAMED_RULES)
        assert cells == f"{shares} | {row['S']:.2f} [{row['S_low']:.2f}, {row['S_high']:.2f}] | {broken}", layer


def test_what_is_said_of_the_depth_map_was_computed():
    found = safety(pd.read_csv(ROOT / "figures" / "data" / "depth_map.csv").query("stratum == 'first-token'"))
    told = re.findall(r"^\| `([a-z-]+)` .*\| (\d+) of (\d+) \| (\d+) \|$", TEXT["which-rule"], re.M)
    assert {rule: tuple(map(int, numbers)) for rule, *numbers in told} == {
        rule: (int(row["broken"]), int(row["edits"]), int(row["layers"])) for rule, row in found.iterrows()
    }
    assert f"r-ROME breaks this model at {found.loc['r-rome', 'layers']:.0f} of 30 layers" in TEXT["README"]
    assert not found.loc[["p-rome", "aao"], "broken"].any()


def test_what_is_said_of_the_later_methods_was_computed():
    table = pd.read_csv(ROOT / "figures" / "data" / "what_came_after.csv")
    before = table.loc[table["method"].eq("unedited"), "perplexity"].iloc[0]
    told = {
        method: cells.split(" | ")
        for method, cells in re.findall(r"^\| `(.+)` \| ([\d.]+ .*) \|$", TEXT["later-methods"], re.M)
    }
    assert set(told) == set(table["method"]) - {"unedited"}
    for method, here in table[table["method"].isin(told)].groupby("method"):
        parts = [here[here["stratum"].eq(stratum)] for stratum in ("ordinary", "first-token")]
        names = ["share_written", "ES", "ES_prefixed", "PS", "NS"]
        found = [
            [f"{part[name].mean():.2f}" for name in names] + [f"{part['preservation'].mean():.1f}"] for part in parts
        ]
        worst = [f"{part['perplexity'].max() / before:.2f}" for part in parts]
        assert told[method] == [*found[0], worst[0], *found[1], worst[1]], method


def test_what_is_said_of_each_later_method_was_computed():
    table = pd.read_csv(ROOT / "figures" / "data" / "what_came_after.csv")
    table["rule"], table["fact"] = table["method"], pd.factorize(table["case_id"])[0]
    found = set()
    for stratum, names in (("ordinary", table["method"].unique()[2:]), ("first-token", ["emmet"])):
        here = table[table["stratum"].eq(stratum)]
        change, share = (
            np.log(here.pivot(index="fact", columns="rule", values=name)) for name in ("preservation", "share_written")
        )
        for name in names:
            paired = measure.paired_differences(here, name, "r-rome", ["ES", "PS", "NS", "S"])
            found |= {sizes(f"{each:.0f}" for each in row) for row in paired.to_numpy()}
            times, strength = change[name] - change["r-rome"], share[name] - share["r-rome"]
            for per in (times, times - strength):
                found.add(sizes(f"{each:.2f}" for each in np.exp(measure.interval([per], np.mean))))
    told = re.findall(r"(-?[\d.]+)\s+(?:times\s+)?\[(-?[\d.]+),\s+(-?[\d.]+)\]", TEXT["later-methods"])
    assert len(told) > 20 and not [numbers for numbers in told if sizes(numbers) not in found]


def sizes(numbers):
    """A number and the ends of its interval without their signs: a loss of 30 is a gain of -30."""
    value, *ends = (number.removeprefix("-") for number in numbers)
    return value, *sorted(ends, key=float)


def test_the_speed_is_what_was_measured():
    told = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.e-]+) \|$", TEXT["speed"], re.M)
    formats = {"seconds_batched": ".1f", "seconds_ours": ".1f", "ratio": ".1f", "relative_error": ".1e"}
    measured = [
        [format(float(row[name]), digits) for name, digits in formats.items()]
        for row in accepted("speed")
        if row["ratio"]
    ]
    short = {"0.0e+00": "0"}
    assert told == [(*others, short.get(error, error.replace("e-0", "e-"))) for *others, error in measured]
