"""Makes the embedded facts and prose (the .jsonl.bz2 files in rrome/data) from two pinned packages and companies.yaml.

Run it as `python -m tools.make_data`, with the packages of the extra "test" installed. The same packages give the
same bytes everywhere: bzip2 writes no time and has one implementation, unlike gzip.

The prose is the World Factbook's. Most of its fields are lists, tables and fragments; what is kept are paragraphs of whole
sentences.
"""

import bz2
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rrome import Fact
from tools.world import plain_text, read_factbook, read_rules, world_facts

DATA = Path(__file__).parent.parent / "rrome" / "data"
HELD_OUT = 8  # one country in so many is held out
MIN_LETTERS = 80  # of a paragraph
MAX_DIGITS = 0.06  # of its characters: more is a table of numbers
ENGLISH = """a an and are as at be been but by for from had has have in into is it its of on or that the their they this to was
    were when which who will with"""  # words that hold a sentence together


def make_data(folder: Path) -> list[Path]:
    """Write the files into `folder`: one JSON record a line, facts in CounterFact's form, prose one country a line."""
    contents = {
        "world.jsonl.bz2": (fact.to_record() for fact in world_facts(read_rules())),
        "companies.jsonl.bz2": (fact.to_record() for fact in company_facts()),
        "factbook.jsonl.bz2": factbook_documents(),
    }
    return [_write(records, folder / name) for name, records in contents.items()]


def company_facts() -> Iterator[Fact]:
    """One fact per company of companies.yaml: in which country its head office is."""
    asked = yaml.safe_load(Path(__file__).with_name("companies.yaml").read_text(encoding="utf-8"))
    sentences = read_rules()["sentences"]
    for number, (name, (true, new, _city)) in enumerate(asked["subjects"].items()):
        plain, other = (template.replace("{}", name) for template in asked["paraphrases"])
        yield Fact(
            asked["prompt"],
            name,
            new,
            target_true=true,
            case_id=number,
            relation="company-country",
            paraphrases=(plain, f"{sentences[number]} {other}"),
            neighbourhood=tuple(asked["prompt"].replace("{}", each) for each in asked["neighbours"][true]),
            generation=tuple(template.replace("{}", name) for template in asked["generation"]),
        )


def factbook_documents() -> Iterator[dict[str, str]]:
    """The prose of each country that has any, with its code and the part that it belongs to.

    A paragraph that stands in several countries is kept once.
    """
    seen: set[str] = set()
    for code, entry in read_factbook().items():
        paragraphs = [paragraph for paragraph in map(prose, _leaves(entry)) if paragraph and paragraph not in seen]
        seen.update(paragraphs)
        if paragraphs:
            part = "held-out" if _is_held_out(code) else "second-moment"
            yield {"country": code, "part": part, "text": "\n".join(dict.fromkeys(paragraphs))}


def _write(records: Iterable[Mapping[str, Any]], path: Path) -> Path:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(bz2.compress(lines.encode()))
    return path


def _is_held_out(code: str) -> bool:
    return hashlib.sha256(code.encode()).digest()[0] % HELD_OUT == 0


def _leaves(entry: Mapping[str, Any]) -> Iterator[str]:
    """Every text of a nested entry, in order, paragraph by paragraph."""
    for value in entry.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, str):
            yield from re.split(r"<br\s*/?>|</p>|\n{2,}", value)


def prose(markup: str) -> str:
    """A paragraph as one line with a capital and a closing mark, or nothing when it does not read as running text.

    Running text is long enough, has few digits, commas and semicolons for its words, mostly lower-case words, and
    enough of the small words that hold an English sentence together; a web address is not running text.
    """
    label = r"^(note( \d)?|etymology|definition|description|meaning)\s*[:-]\s*"
    text = re.sub(label, "", plain_text(markup), flags=re.I)
    text = re.sub(r"\s*\(\d{4}( est\.)?\)\s*$", "", text)
    text = re.sub(r" +([,.;:)])", r"\1", text)  # left by a tag before a mark
    words = re.findall(r"[^\W\d_]+", text)
    if re.search(r"https?:|www\.|@", text):
        return ""
    if len(text) < MIN_LETTERS or sum(letter.isdigit() for letter in text) > MAX_DIGITS * len(text):
        return ""
    small = sum(word in ENGLISH.split() for word in words)
    lower = sum(word.islower() for word in words)
    marks = text.count(",") + 2 * text.count(";")
    if small < 0.22 * len(words) or lower < 0.6 * len(words) or marks > 0.15 * len(words):
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?\"')" else ".")


if __name__ == "__main__":
    make_data(DATA)
