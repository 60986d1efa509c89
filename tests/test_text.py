import json

import pytest

from rrome import RromeError
from rrome.facts import text as text_module
from rrome.facts.text import factbook_prose, named_texts, read_texts
from rrome.store.disk import digest


@pytest.fixture(scope="module")
def parts():
    return {part: factbook_prose(part) for part in ("second-moment", "held-out")}


def test_the_text_is_the_same_on_every_machine(parts):
    assert {part: digest(*texts) for part, texts in parts.items()} == {
        "second-moment": "2c8a6fbcb98d6588",
        "held-out": "f04a5bef95269a48",
    }


def test_both_parts_are_large_and_share_nothing(parts):
    letters = {part: sum(map(len, texts)) for part, texts in parts.items()}
    assert letters["second-moment"] > 1_000_000 and letters["held-out"] > 100_000
    paragraphs = [set("\n".join(texts).split("\n")) for texts in parts.values()]
    assert not paragraphs[0] & paragraphs[1]


def test_it_reads_as_prose(parts):
    paragraphs = "\n".join(parts["second-moment"]).split("\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert not [text for text in paragraphs if "<" in text and ">" in text and "</" in text]
    assert not [text for text in paragraphs if "http" in text or " ," in text]
    assert all(text[-1] in ".!?\"')" and not text[0].islower() for text in paragraphs)
    assert all(sum(letter.isdigit() for letter in text) <= 0.06 * len(text) + 1 for text in paragraphs)


def test_an_unknown_part_lists_the_known_ones():
    with pytest.raises(RromeError, match="'test'.*second-moment, held-out"):
        factbook_prose("test")


def test_texts_are_read_from_files_and_folders(tmp_path):
    (tmp_path / "a.txt").write_text("One document.\nIts second line.\n\n\nAnother.\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "A third."}) + "\n")
    (tmp_path / "c.png").write_bytes(b"\x00")
    assert read_texts(tmp_path / "a.txt") == ["One document.\nIts second line.", "Another."]
    assert read_texts(tmp_path) == ["One document.\nIts second line.", "Another.", "A third."]


def test_bad_text_files_are_named(tmp_path):
    with pytest.raises(RromeError, match="no text .*absent.*choose factbook"):
        read_texts(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(RromeError, match="empty.txt holds no text"):
        read_texts(tmp_path / "empty.txt")
    for second in ('{"words": "y"}', '{"text": 5}', "{"):
        (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n' + second + "\n")
        with pytest.raises(RromeError, match="bad.jsonl(, record 1| cannot be read .line 2)"):
            read_texts(tmp_path / "bad.jsonl")
    (tmp_path / "latin.txt").write_bytes("Málaga".encode("latin-1"))
    with pytest.raises(RromeError, match="latin.txt cannot be read as UTF-8"):
        read_texts(tmp_path / "latin.txt")


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_text_files_of_other_systems_are_read(tmp_path, start):
    (tmp_path / "a.txt").write_bytes(f"{start}One.\r\nTwo.\r\n\r\nThree.\r\n".encode())
    assert read_texts(tmp_path / "a.txt") == ["One.\nTwo.", "Three."]
    (tmp_path / "a.json").write_text(json.dumps([{"text": "One."}]))
    assert read_texts(tmp_path / "a.json") == ["One."]


WIKITEXT = [
    "",
    " = Rome = \n",
    "",
    " Rome is old . \n",
    " = = Rivers = = \n",
    " It lies on one . \n",
    " = Paris = \n",
    " Cold . \n",
]


def test_documents_come_from_the_hub_once_and_then_from_the_cache(no_cache, monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return ({"text": text} for text in WIKITEXT)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    expected = ["= Rome = \n Rome is old . \n = = Rivers = = \n It lies on one .", "= Paris = \n Cold ."]
    for _ in range(2):
        assert named_texts("wikitext") == expected
    assert asked == [(("Salesforce/wikitext", "wikitext-103-raw-v1"), {"split": "train", "streaming": True})]
    monkeypatch.setattr(text_module, "LETTERS", 20)
    assert named_texts("wikitext") == expected[:1]
    assert named_texts("wikipedia") == ["= Rome =", "Rome is old ."]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RROME_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: ({"text": text} for text in WIKITEXT))
    monkeypatch.setattr(text_module, "LETTERS", 20)
    with pytest.warns(UserWarning, match="wikipedia is streamed anew the next time: cannot write .*RROME_CACHE"):
        assert named_texts("wikipedia") == ["= Rome =", "Rome is old ."]


def test_a_name_stands_for_a_text(parts, no_cache, tmp_path, monkeypatch):
    assert named_texts("factbook") == parts["second-moment"]
    (tmp_path / "mine.txt").write_text("One document.\n\nAnother.")
    assert named_texts(tmp_path / "mine.txt") == named_texts(str(tmp_path)) == ["One document.", "Another."]
    rows = [{"text": "x" * 1_000_000}] * 9
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: iter(rows))
    assert len(named_texts("wikipedia", 1000)) == 4
    assert len(named_texts("wikipedia", 1_000_000)) == 6  # letters for so many tokens


def test_a_name_of_nothing_lists_what_there_is(no_cache):
    with pytest.raises(RromeError, match="no text 'wikitxt': choose factbook, wikitext, wikipedia, or give a .txt"):
        named_texts("wikitxt")
    with pytest.raises(RromeError, match="wikimedia/wikipedia could not be read from the hub.*connect to the internet"):
        named_texts("wikipedia", 1000)


def test_without_a_network_the_remedy_is_named(no_cache):
    with pytest.raises(RromeError, match=r"Salesforce/wikitext could not be read from the hub.*read_texts\(path\)"):
        named_texts("wikitext")
    assert not list(no_cache.rglob("*.jsonl"))
