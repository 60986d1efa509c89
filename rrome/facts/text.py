"""Running English text: for C_0, and held out from it for perplexity.

The embedded text is the World Factbook's prose, paragraphs of whole sentences (rrome/data, made by tools/make_data.py).
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..store.disk import RromeError, atomic, cache_dir, data_records, read_records, read_yaml

FACTBOOK = "factbook"  # the embedded text
LETTERS = 4_000_000  # that are read from the hub, and kept, unless more are asked for
LETTERS_PER_TOKEN = 6  # of English, with some to spare
PARTS = ("second-moment", "held-out")


def factbook_prose(part: str = "second-moment") -> list[str]:
    """The Factbook's prose, one document per country, for "second-moment" or "held-out": no country is in both."""
    if part not in PARTS:
        raise RromeError(f"there is no part {part!r} of the Factbook: choose one of {', '.join(PARTS)}")
    return [document["text"] for document in data_records("factbook.jsonl.bz2") if document["part"] == part]


def named_texts(name: str | Path = FACTBOOK, n_tokens: int | None = None) -> list[str]:
    """The documents that a name stands for: "factbook", "wikitext" or "wikipedia" on the hub, or a path as in `read_texts`.

    From the hub come the first ones, with letters enough for `n_tokens` tokens; RromeError without a network.
    """
    if name == FACTBOOK:
        return factbook_prose()
    if name in _corpora():
        return _hub_texts(str(name), max(LETTERS, LETTERS_PER_TOKEN * (n_tokens or 0)))
    return read_texts(name)


def read_texts(path: str | Path) -> list[str]:
    """Documents from a .txt file (blank lines between), the "text" of .json or .jsonl records, a folder of .txt and .jsonl."""
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".txt", ".jsonl")]
        texts = [text for file in files for text in read_texts(file)]
    elif not path.exists():
        known = ", ".join([FACTBOOK, *_corpora()])
        raise RromeError(f"there is no text {str(path)!r}: choose {known}, or give a .txt or .jsonl file, or a folder")
    elif path.suffix in (".json", ".jsonl"):
        texts = [record["text"] for record in read_records(path, ["text"])]
    else:
        try:
            texts = re.split(r"\n\s*\n", path.read_text("utf-8-sig"))  # with or without a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            remedy = "convert it, or give another file"
            raise RromeError(f"{path} cannot be read as UTF-8 text ({error}): {remedy}") from error
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise RromeError(f"{path} holds no text")
    return texts


def _hub_texts(name: str, n_letters: int) -> list[str]:
    """The first documents of a text of the hub, about `n_letters` characters, streamed once and then kept in the cache."""
    entry = _corpora()[name]
    path = cache_dir() / "texts" / f"{name}-{entry['config']}-{n_letters}.jsonl"
    if path.exists():
        return read_texts(path)
    texts: list[str] = []
    for text in _hub_documents(entry):
        texts += [text.strip()] if text.strip() else []
        n_letters -= len(text)
        if n_letters <= 0:
            break
    try:
        with atomic(path) as scratch:
            scratch.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    except RromeError as error:
        warnings.warn(f"{name} is streamed anew the next time: {error}", stacklevel=2)
    return texts


def _corpora() -> dict[str, dict[str, Any]]:
    """The texts of the hub, by name."""
    return {name: entry for name, entry in read_yaml("datasets.yaml").items() if "lines" in entry}


def _hub_documents(entry: Mapping[str, Any]) -> Iterator[str]:
    """Whole documents of a hub's data set; where its rows are lines, a document starts at each title " = ... = "."""
    lines: list[str] = []
    remedy = "give a file to read_texts(path)"
    for row in hub_rows(entry["hub"], entry["config"], split="train", streaming=True, remedy=remedy):
        if lines and (not entry["lines"] or re.match(r" = [^=]", row["text"])):
            yield "".join(lines)
            lines = []
        lines.append(row["text"])
    yield "".join(lines)


def hub_rows(*names: str, remedy: str, **options: Any) -> Iterator[dict[str, Any]]:
    """The rows of a data set of the hub, by name and configuration; RromeError, with the remedy, where it cannot be read."""
    try:
        from datasets import load_dataset  # an extra, which takes seconds to import
    except ImportError as error:
        raise RromeError(f'{names[0]} is read with the package datasets: pip install "rrome[hub]"') from error
    try:
        yield from load_dataset(*names, **options)
    except Exception as error:  # of whichever network library is below
        reason = (str(error) or repr(error)).splitlines()[0]
        what = f"{names[0]} could not be read from the hub ({reason})"
        raise RromeError(f"{what}: connect to the internet once, or {remedy}") from error
