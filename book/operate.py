"""Operates the two interactive figures in a browser as a reader would, and compares what they show with the stored rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page

from .live import SLIDERS, shown, sizes, was
from .stored import STUDIES, sequences, singles


def operate(page: Page) -> Iterator[str]:
    """What is wrong with the interactive figures of an open page; nothing for a page that has none."""
    if page.locator(".live.edits").count():
        yield from edits(page.locator(".live.edits"), sequences(STUDIES))
    if page.locator(".live.mismatches").count():
        yield from mismatches(page.locator(".live.mismatches"), singles(STUDIES))


def without_script(browser: Browser, path: Path) -> Iterator[str]:
    """What is wrong with a page's figures where no script runs: they stand in one state, without dead controls."""
    if 'class="live ' not in path.read_text(encoding="utf-8"):
        return
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    if page.locator(".live :is(button, select, input):visible").count():
        yield "without JavaScript, controls stand there that do nothing"
    if page.locator(".live.edits").count():
        at = int(page.locator(".live .n").inner_text())
        yield from state(page.locator(".live.edits"), first_layer(sequences(STUDIES)), at)
    else:
        yield from table(page.locator(".live.mismatches"), singles(STUDIES)[0])
    page.context.close()


def first_layer(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if run["layer"] == runs[0]["layer"]]


def differs(what: str, here: str, rows: str) -> Iterator[str]:
    if " ".join(here.split()) != " ".join(rows.split()):
        yield f"{what} shows {here[:60]!r}, the rows say {rows[:60]!r}"


def state(figure: Locator, runs: list[dict[str, Any]], at: int) -> Iterator[str]:
    """Compare the models after `at` edits with the rows."""
    for run in runs:
        if at < len(run["states"]):
            row, model = run["states"][at], figure.locator(f'.model[data-rule="{run["rule"]}"]')
            if not model.count():
                yield f"the stored run of {run['rule']} is not on the page: build it anew"
                continue
            yield from differs(f"text of {run['rule']} after {at}", model.locator(".text").inner_text(), row["text"])
            for name in ("perplexity", "delta"):
                value = model.locator(f".{name}").inner_text()
                yield from differs(f"{name} of {run['rule']} after {at}", value, shown(row[name]))


def edits(figure: Locator, runs: list[dict[str, Any]]) -> Iterator[str]:
    """The slider by keyboard, the button to the next disabling edit, play and pause, and every layer."""
    slider, play, here = figure.locator("input"), figure.locator(".play"), first_layer(runs)
    for key, at in (("Home", 0), ("ArrowRight", 1), ("End", max(len(run["states"]) for run in here) - 1)):
        slider.press(key)
        yield from differs(f"the slider after {key}", slider.input_value(), str(at))
        yield from state(figure, here, at)
    large = sorted({n for run in here for n, row in enumerate(run["states"]) if row["large"]})
    slider.press("Home")
    for at in large[:2]:
        figure.locator(".next").press("Enter")
        yield from differs("the next disabling edit", figure.locator(".n").inner_text(), str(at))
        yield from state(figure, here, at)
    slider.press("Home")
    play.press("Enter")
    figure.page.wait_for_function("document.querySelector('.live.edits input').value > 0")
    play.press("Enter")
    yield from differs("the button after a pause", play.inner_text(), "Play")
    for layer in sorted({run["layer"] for run in runs}):
        figure.locator(".layer").select_option(str(layer))
        slider.press("End")
        yield from state(figure, [run for run in runs if run["layer"] == layer], int(slider.input_value()))


def table(figure: Locator, fact: dict[str, Any]) -> Iterator[str]:
    """Compare the table of rules with the stored rows of a fact, and with the formula."""
    for rule, (denominator, _, size) in sizes(fact).items():
        row = figure.locator(f'tr[data-rule="{rule}"]')
        yield from differs(f"denominator of {rule}", row.locator(".denominator").inner_text(), shown(denominator))
        yield from differs(f"size of {rule}", row.locator(".size").inner_text(), shown(size))
        if rule in fact["stored"]:
            yield from differs(f"size of {rule}", row.locator(".size").inner_text(), was(fact, rule, "size"))


def mismatches(figure: Locator, facts: list[dict[str, Any]]) -> Iterator[str]:
    """The first and the last fact of the list; then each slider to its end by keyboard, against the formula."""
    for n in (len(facts) - 1, 0):
        figure.locator("select").select_option(str(n))
        yield from table(figure, facts[n])
    moved = dict(facts[0])
    for name, (_, _, end) in SLIDERS.items():
        figure.locator(f"#{name}").press("End")
        moved[name] = end
        for rule, (_, _, size) in sizes(moved).items():
            here = figure.locator(f'tr[data-rule="{rule}"] .size').inner_text()
            yield from differs(f"size of {rule} with {name} at its end", here, shown(size))
