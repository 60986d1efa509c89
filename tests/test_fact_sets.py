import functools
import http.server
import json
import random
import threading

import pytest

from rrome import Fact, RromeError
from rrome.facts import fact as fact_sets
from rrome.facts.fact import load_facts, paper_sample, read_facts
from rrome.store.disk import file_sha256


@pytest.fixture
def file(tmp_path):
    facts = [Fact("{} is in", f"Town {n}", "Spain", "Italy", case_id=n) for n in range(20)]
    (tmp_path / "facts.json").write_text(json.dumps([fact.to_record() for fact in facts]))
    return tmp_path / "facts.json"


def test_the_first_n_or_a_seeded_sample(file):
    facts = load_facts(file)
    assert load_facts(file, n=3) == facts[:3]
    assert load_facts(file, n=5, seed=1) == load_facts(file, n=5, seed=1) != load_facts(file, n=5, seed=2)
    with pytest.raises(RromeError, match="n=21.*holds 20"):
        load_facts(file, n=21)


def test_the_embedded_set_is_the_default():
    assert load_facts(n=1)[0].relation == "city-continent"


def test_an_unknown_source_is_named():
    with pytest.raises(RromeError, match="no fact file zsre"):
        load_facts("zsre")


@pytest.fixture
def served(file, monkeypatch):
    """CounterFact's entry in datasets.yaml pointing at the file, served on this machine, with a sample of five."""
    handler = functools.partial(QuietHandler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        entry = {"url": f"http://127.0.0.1:{server.server_port}/facts.json", "sha256": file_sha256(file)}
        entry["paper_sample"] = {"records": 20, "seed": 37, "size": 5}
        monkeypatch.setattr(fact_sets, "read_yaml", lambda _: {"counterfact": entry})
        yield entry
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


def test_counterfact_is_downloaded_once(no_cache, served, file):
    assert load_facts("counterfact") == read_facts(file)
    served["url"] = "http://127.0.0.1:1/gone"
    assert len(load_facts("counterfact")) == 20


def test_the_papers_sample_is_a_set_by_name(no_cache, served, file):
    case_ids = list(range(20))
    random.Random(37).shuffle(case_ids)
    assert load_facts("counterfact-paper") == [fact for fact in read_facts(file) if fact.case_id in case_ids[:5]]
    with pytest.raises(RromeError, match="n=6 facts asked of counterfact-paper, which holds 5"):
        load_facts("counterfact-paper", n=6)


def test_a_download_with_another_hash_is_not_used(no_cache, served):
    served["sha256"] = "0" * 64
    with pytest.raises(RromeError, match="could not be downloaded from .*hash"):
        load_facts("counterfact")
    assert not [path for path in no_cache.rglob("*") if path.is_file()]


def test_offline_the_error_says_what_is_missing_and_the_remedy(no_cache, served):
    served["url"] = "http://127.0.0.1:1/counterfact.json"
    with pytest.raises(RromeError, match="could not be downloaded from http.*counterfact.json.*pass the path"):
        load_facts("counterfact")


def test_the_papers_sample_is_rebuilt_from_its_seed():
    facts = [Fact("{} is in", "Rome", "Spain", case_id=n) for n in range(0, 21919, 7)]
    order = list(range(21919))
    random.Random(37).shuffle(order)
    sample = paper_sample(facts)
    assert {fact.case_id for fact in sample} == set(order[:5000]) & set(range(0, 21919, 7))
    assert [fact.case_id for fact in sample] == sorted(fact.case_id for fact in sample)
