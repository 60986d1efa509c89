"""Reads the built book as a person would: every page in Chromium, on a phone and on a desk, by day and by night.

A link that leads nowhere stops the build itself (sphinx -W).

python -m book.check build/book [--pictures FOLDER] [--only PART]
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from .operate import operate, without_script

log = logging.getLogger(__name__)
SIZES = {"phone": (390, 844), "desk": (1280, 900)}
SCHEMES = ("light", "dark")
AXE = Axe()
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"], "preload": False}
WORDS = """[...document.querySelectorAll("main p, main li, main h1, main h2, main h3, main td")]
    .map(e => { const c = e.cloneNode(true); c.querySelectorAll("math, pre, code, .output").forEach(x => x.remove());
                return e.closest(".output, pre") ? "" : c.textContent })"""
PICTURES = "[...document.images].map(e => [e.src, e.alt.trim(), e.complete && e.naturalWidth > 0])"
EQUATIONS = """[...document.querySelectorAll("article math")].map(e => { const b = e.getBoundingClientRect();
    return b.width * b.height > 0 && (b.right <= innerWidth || !!e.closest("div.math, .pst-scrollable-table-container")) })"""
CUT = """[...document.querySelectorAll("main :is(table, pre, img, svg)")].filter(e => {
    const scrolls = p => ["auto", "scroll"].includes(getComputedStyle(p).overflowX);
    const column = e.closest("article") ?? e.closest("main");
    if (e.getBoundingClientRect().right <= column.getBoundingClientRect().right + 1) return false;
    for (let p = e; p && p !== column; p = p.parentElement) if (scrolls(p)) return false;
    return true; }).map(e => e.tagName.toLowerCase() + " " + e.textContent.trim().slice(0, 40))"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
FOCUS = """(() => { const e = document.activeElement, b = e.getBoundingClientRect(), s = getComputedStyle(e);
    const drawn = s.outlineStyle != "none" && parseFloat(s.outlineWidth) > 0 || s.boxShadow != "none";
    return {text: e.textContent.trim().slice(0, 60) || e.getAttribute("aria-label") || e.tagName, drawn,
            seen: b.width > 0 && b.height > 0 && b.right > 0 && b.left < innerWidth,
            end: e === document.body,
            place: ["nav.bd-links", ".bd-header-article", "main"].find(p => e.closest(p)) || ""} })()"""


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if not {"_static", "_downloads"} & set(path.parts))


def all_slides(page: Page) -> Iterator[str]:
    """Go through the slides with the keyboard; each must be another one, and no wider than the window."""
    wide = page.viewport_size["width"] > 600  # a phone shows them one under the other
    for n in range(page.evaluate("Reveal.getTotalSlides()") if wide else 0):
        if page.evaluate("Reveal.getState().indexh") != n:
            yield f"the right arrow does not lead to slide {n + 1}"
        if page.evaluate("(s => s.scrollWidth > s.clientWidth + 1)(Reveal.getCurrentSlide())"):
            yield f"slide {n + 1} is wider than the window"
        page.keyboard.press("ArrowRight")


def look(page: Page, width: int, scheme: str) -> Iterator[str]:
    """What is wrong with an open page as it is drawn."""
    if page.evaluate("document.documentElement.scrollWidth") > width:
        yield "the page is wider than the window"
    for what in page.evaluate(CUT):
        yield f"wider than its column, and no frame scrolls: {what}"
    for source, alt, loaded in page.evaluate(PICTURES):
        if not loaded:
            yield f"picture {source} does not show"
        if not alt:
            yield f"picture {source} has no alternative text"
    if not all(page.evaluate(EQUATIONS)):
        yield "an equation is empty or cut off"
    for text in page.evaluate(WORDS):
        if any(sign in text for sign in ("$", "\\(", "\\[", "\\frac")):
            yield f"an equation is not drawn: {text.strip()[:80]}"
    if (sum(page.evaluate(BACKGROUND)) / 3 > 128) is (scheme == "dark"):
        yield f"the page is not {scheme}"


def accessible(page: Page) -> Iterator[str]:
    """What axe-core finds against WCAG 2.1 AA: contrast, names, labels, roles, frames that the keyboard cannot scroll."""
    for rule in AXE.run(page, options=WCAG).response["violations"]:
        for node in rule["nodes"]:
            why = [each["message"] for each in [*node["any"], *node["all"], *node["none"]]]
            yield f"{rule['help']}: {node['target']} {' '.join(why)[:200]}"


def tab(page: Page, place: str, steps: int = 120) -> Iterator[str]:
    """Press Tab until something in `place` has the focus; each step must show where one is."""
    for _ in range(steps):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus["end"]:
            break
        if not (focus["drawn"] and focus["seen"]):
            yield f"the focus cannot be seen on {focus['text']!r}"
        if focus["place"] == place:
            return
    yield f"Tab does not reach {place}"


def by_keyboard(page: Page, size: str) -> Iterator[str]:
    """Go to the navigation and then to the text with the keyboard alone; on a phone, open the menu first."""
    if size == "phone":
        button = page.locator("button.primary-toggle:visible")
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(400)
        yield from tab(page, "nav.bd-links")
        page.keyboard.press("Escape")
        page.wait_for_timeout(400)
    else:
        yield from tab(page, "nav.bd-links")
    yield from tab(page, "main")


def read(browser: Browser, site: Path, path: Path, size: str, scheme: str, pictures: Path | None) -> Iterator[str]:
    """Open one page and say everything that is wrong with it."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(600_000)  # a busy machine is not a broken page
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: said.append(f"request failed: {request.url}"))
    here = (site.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(here) else said.append(f"asks for {request.url}"))
    page.goto(path.as_uri() + ("?q=denominator" if path.name == "search.html" else ""))
    page.evaluate("document.fonts.ready.then(() => null)")
    if pictures:
        name = "-".join([*path.relative_to(site).with_suffix("").parts, size, scheme])
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
    yield from all_slides(page) if path.parent.name == "slides" else on_page(page, path.name, size, scheme)
    yield from said
    context.close()


def on_page(page: Page, name: str, size: str, scheme: str) -> Iterator[str]:
    """Look at a page of the book, go through it by keyboard, and operate what can be operated."""
    yield from look(page, SIZES[size][0], scheme)
    if size == "phone" or name == "index.html":  # where most scrolls; the sidebar is the same on every page
        yield from accessible(page)
    if name == "search.html" and not finds(page):
        yield "the search finds nothing"
    yield from by_keyboard(page, size)
    yield from operate(page)


def finds(page: Page) -> bool:
    try:
        page.wait_for_selector("#search-results li")
    except TimeoutError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for a screenshot of every page")
    parser.add_argument("--only", default="", help="only pages whose path holds this")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    site, wrong = given.site.resolve(), 0
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("error: there is no chromium on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium)
        for path in (path for path in pages(site) if given.only in path.as_posix()):
            found = list(without_script(browser, path))
            for size, scheme in product(SIZES, SCHEMES):
                problems = read(browser, site, path, size, scheme, given.pictures)
                found += [f"{problem} ({size}, {scheme})" for problem in problems]
            log.info("%s: %s", path.relative_to(site), "\n    ".join(["", *found]) if found else "good")
            wrong += len(found)
        browser.close()
    sys.exit(f"{wrong} problems" if wrong else None)


if __name__ == "__main__":
    main()
