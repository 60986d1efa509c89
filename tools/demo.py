"""`make demo`: one fact edited by three rules, then an edit that breaks the model under ROME and not under the others."""

import typer

import rrome
from rrome.edit import load_editor
from rrome.study import probe, what_it_says
from rrome.update import NAMED_RULES

TOWER = rrome.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", target_true="Paris")
UNRELATED = "The weather today is"


def main(n_generated: int = 40, c0_tokens: int = 20_000) -> None:
    """Print a table of two facts under the unedited model and three rules, and what each model says."""
    editor = load_editor("smollm2-135m", c0_tokens=c0_tokens, seed=0)
    microsoft = rrome.load_facts("companies")[0]
    for fact, prompt in ((TOWER, TOWER.rewrite), (microsoft, UNRELATED)):
        updates = editor.updates(fact, NAMED_RULES)
        said = what_it_says(editor, fact, updates, [prompt], [probe()], n_generated=n_generated)
        new = rrome.measure.target_nll(
            editor.model, [fact.rewrite] * 4, [fact.target_new] * 4, [None, *updates.values()]
        )
        table = said[["rule", "delta_frobenius", "perplexity"]].assign(p_new=new.neg().exp().tolist())
        typer.echo(f"\n{fact.rewrite} -> {fact.target_new}\n{table.round(2).to_string(index=False, na_rep='')}\n")
        for row in said.itertuples():
            typer.echo(f"{row.rule:>9}: {' '.join(f'{prompt}{row.text}'.split())}")
    typer.echo("\np_new: of the new answer after the bare prompt, where r-ROME and p-ROME hardly edit it (notebook 5).")


if __name__ == "__main__":
    typer.run(main)
