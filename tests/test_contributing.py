"""The tutorial of CONTRIBUTING.md is run as it stands, on a tiny model."""

import re
from dataclasses import replace
from pathlib import Path

from facts_for_tests import FACTS

import rrome.study

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_rule_of_the_tutorial_is_short_and_really_is_one(editor, tmp_path, monkeypatch, capsys):
    tutorial, method = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    rule = tutorial[tutorial.index("@dataclass") : tutorial.index("\n\neditor")]
    assert len(rule.splitlines()) < 15
    prompts = {"paraphrases": ("Rome. Where is it?",), "neighbourhood": ("A ship is",)}
    facts = [replace(fact, **prompts) for fact in FACTS if fact.target_true]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rrome.edit, "load_editor", lambda *_, **__: editor)
    monkeypatch.setattr(rrome.study, "draw_facts", lambda *_, **__: facts)
    namespace = {"__name__": "tutorial"}
    exec(tutorial, namespace)
    shown = capsys.readouterr().out
    assert "Between(share=0.5)" in shown and "r-rome" in shown
    assert '"rules": ["r-rome", "Between(share=0.5)", "p-rome"]' in (tmp_path / "between.jsonl").read_text()
    exec(method, namespace)
    name, norm, change = capsys.readouterr().out.rsplit(maxsplit=2)
    assert (
        name == "Method(filter=Filter(offset=0.02), tau=500.0, remembers=True)"
        and float(norm) > float(change) / 100 > 0
    )
    alone = editor.update(namespace["facts"][-1], namespace["gentle"])
    assert alone.norm != float(norm)  # the earlier facts count
