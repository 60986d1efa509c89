"""The model card of shared edits: what was edited into which model, and how to load it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from tabulate import tabulate

from .. import __version__
from ..model.model import Model

WHAT = (
    "Each edit is a rank-one change of one matrix of the base model (ROME), computed with the rules of *Rebuilding ROME* "
    "([arXiv 2403.07175](https://arxiv.org/abs/2403.07175)). Edits change what the model says about one fact and may "
    "change other things it says too."
)


def model_card(
    model: Model,
    settings: Mapping[str, Any],
    edits: Sequence[Mapping[str, Any]],
    library: Literal["peft", "transformers"],
    folder: str,
) -> str:
    """The README.md of the folder of an adapter ("peft") or a merged model ("transformers"); `edits` as in edits.jsonl."""
    base = model.origin.get("source") or model.lm.name_or_path or model.name
    header = {
        "base_model": base,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["rome", "model-editing", *(["lora"] if library == "peft" else [])],
    }
    parts = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True) + "---\n",
        f"# {Path(model.name).name} with {len(edits)} edited fact{'s' * (len(edits) > 1)}\n",
        WHAT + "\n",
        _table(_origin(model, settings, edits, base), ["", ""]),
        "## Load\n",
        _loading(model, library, folder),
        "## Edits\n",
        _table(list(map(_edit, range(1, len(edits) + 1), edits)), EDIT_COLUMNS),
    ]
    return "\n".join(parts)


def _origin(
    model: Model, settings: Mapping[str, Any], edits: Sequence[Mapping[str, Any]], base: str
) -> list[list[str]]:
    """What the edits were made with, one line each."""
    d_v, d_k = model.site.weight.shape
    known = {"fingerprint": model.fingerprint} | model.origin
    marks = [f"{name} {known[name]}" for name in ("fingerprint", "revision", "sha256") if known.get(name)]
    rows = {
        "base model": f"{base} ({', '.join(marks)})",
        "edited matrix": f"`{model.site.path}.weight` of layer {model.layer} (counted from 0), {d_v} x {d_k}",
        "rules": ", ".join(sorted({edit["rule"] for edit in edits})),
    }
    if "second_moment" in settings:
        tokens = settings.get("second_moment_tokens")
        rows["C₀"] = f"`{settings['second_moment']}`" + (f", {tokens} tokens" if tokens else "")
    return [[name, _cell(text)] for name, text in (rows | {"made with": f"rrome {__version__}"}).items()]


def _loading(model: Model, library: str, folder: str) -> str:
    """The code that loads the folder, and where to run it."""
    dtype = str(model.site.weight.dtype).removeprefix("torch.")
    auto, load = "from transformers import AutoModelForCausalLM", "AutoModelForCausalLM.from_pretrained"
    adapter = ["from peft import PeftModel", f"model = PeftModel.from_pretrained(base, {json.dumps(folder)})"]
    if library == "transformers":
        lines = [auto, "", f'model = {load}({json.dumps(folder)}, dtype="{dtype}")']
    elif model.converted:  # by the kit
        base = f"base = rrome.load({json.dumps(model.address)}, dtype=torch.{dtype}).lm"
        lines = ["import rrome, torch", adapter[0], "", base, adapter[1]]
    else:
        source = json.dumps(model.address)
        revision = model.origin.get("revision")
        pinned = f', revision="{revision}"' if revision else ""
        lines = [adapter[0], auto, "", f'base = {load}({source}{pinned}, dtype="{dtype}")', adapter[1]]
    code = "\n".join(lines)
    text = f"Beside this folder, or with its path instead of its name:\n\n```python\n{code}\n```\n"
    if library == "peft":
        kit = f"`rrome.EditLog({json.dumps(folder)}).replay(model)`"
        text += f"\nWith the kit, bit for bit, into the base model loaded at layer {model.layer}: {kit}.\n"
    return text


EDIT_COLUMNS = ["", "subject", "prompt", "target", "instead of", "rule", "‖Δ‖", r"\|Δ\|"]


def _edit(number: int, edit: Mapping[str, Any]) -> list[str]:
    """One edit as a line of the table."""
    asked = (edit.get("fact") or {}).get("requested_rewrite", {})
    targets = [(asked.get(name) or {}).get("str") for name in ("target_new", "target_true")]
    texts = [edit["subject"], asked.get("prompt"), *targets, edit["rule"]]
    sizes = [f"{edit['delta_frobenius']:.4g}", f"{edit['delta']:.4g}"]
    return [str(number), *(_cell(text) for text in texts), *sizes]


def _cell(text: str | None) -> str:
    """A text that stays in its cell of a Markdown table."""
    return re.sub(r"([|<\\])", r"\\\1", " ".join((text or "–").split()))


def _table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    return tabulate(rows, columns, tablefmt="github", disable_numparse=True) + "\n"
