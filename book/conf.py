"""Sphinx settings of the site; `make book` calls it."""

import json
import re
import tomllib
from html import escape
from importlib import resources

from sphinx.application import Sphinx

from book import pages

settings = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "rrome"
author = settings["authors"][0]["name"]
html_title = project
html_baseurl = settings.get("urls", {}).get("Documentation", "")
language = "en"
exclude_patterns = [".doctrees", "rrome", "tests"]  # code that pages link to

extensions = ["myst_nb", "book.mathml"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # which knows tables

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_static_path = ["static", str(resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["book.css"]
html_js_files = [("live.js", {"defer": "defer"})]
html_favicon = "static/favicon.svg"
html_use_index = False
html_copy_source = False  # notebooks are downloads, and the rest is in the repository
html_show_search_summary = False  # a page opened from a disk may not fetch the others to quote them
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "use_download_button": False,  # notebooks have a link of their own
    "navbar_persistent": [],
    "navigation_with_keys": False,
}
if repository := settings.get("urls", {}).get("Repository"):
    html_theme_options["extra_footer"] = f'<a href="{repository}">{repository}</a>'


def prepare(app: Sphinx, docname: str, content: list[str]) -> None:
    """Make a page readable as Sphinx reads it: the files that readers download stay as they are."""
    folder, _, name = docname.rpartition("/")
    if folder == "notebooks":
        committed = pages.ROOT / folder / f"{name}.ipynb"
        content[0] = json.dumps(pages.readable(json.loads(content[0]), committed))
    elif folder == "figures":
        content[0] = pages.with_title(content[0], name)


def share(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """What a link to a page shows where people share it; pictures there need the site's address."""
    words, before = settings["description"], context.get("metatags", "")
    about = {"title": strip(context.get("title", project)), "description": words, "type": "website"}
    if html_baseurl:
        about |= {"url": f"{html_baseurl}{page}.html", "image": f"{html_baseurl}_static/preview.png"}
    tags = [f'<meta property="og:{name}" content="{escape(text)}">' for name, text in about.items()]
    tags.append('<meta name="twitter:card" content="summary_large_image">')
    if 'name="description"' not in before:
        tags.append(f'<meta name="description" content="{escape(words)}">')
    context["metatags"] = "\n".join([before, *tags])


def strip(title: str) -> str:
    """A title without its HTML."""
    return re.sub(r"<annotation.*?</annotation>|<[^>]*>", "", title)


def lighter(app: Sphinx, error: Exception | None) -> None:
    for picture in app.outdir.rglob("*.png"):
        picture.write_bytes(pages.shrunk(picture.read_bytes()))


def setup(app: Sphinx) -> None:
    app.connect("build-finished", lighter)
    app.connect("source-read", prepare)
    app.connect("html-page-context", share)
