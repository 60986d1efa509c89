"""Edits to share: a LoRA adapter that plain `peft` loads and that is an edit log too, or the edited model itself.

A sum of rank-one updates is a LoRA with scaling 1, one edit per row of A (r, d_k) and column of B (d_v, r):

    W x + sum_i left_i (right_i . x)  =  W x + B A x

    FOLDER/adapter_config.json          for peft: rank r = number of updates, and the one module that is edited
    FOLDER/adapter_model.safetensors    A and B, float32
    FOLDER/edits.jsonl                  for EditLog: settings, then one line per edit
    FOLDER/README.md                    the model card

Read as a log, the adapter gives the same W bit for bit. peft adds B A x to W x, which is the same up to rounding: on the
default model in float32, logits of up to 32 differed by at most 4.7e-5 (five adapters, ||Delta||_F 19 to 484).
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import __version__ as VERSION

from .. import __version__
from ..model.model import Model
from ..store.disk import RromeError, atomic, explained, file_sha256, quiet_bars
from ..store.journal import as_line
from ..update.rules import RankOneUpdate

CONFIG, WEIGHTS, LINES, CARD = "adapter_config.json", "adapter_model.safetensors", "edits.jsonl", "README.md"


def save_adapter(
    folder: str | Path,
    model: Model,
    updates: Sequence[RankOneUpdate | None],
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write updates of a model as a LoRA adapter, whole or not at all; None stands for an edit that failed.

    `settings` and `rows`, one per edit, are kept in edits.jsonl. RromeError for no update, or a folder that is not empty.
    """
    model.record.refuse_edits("an adapter of one layer's edits is saved", but=model.edits)
    made = [update for update in updates if update is not None]
    with _new_folder(folder, len(made)) as scratch:
        path = f"base_model.model.{model.site.path}"
        rights = torch.stack([update.right.cpu() for update in made])  # (r, d_k)
        lefts = torch.stack([update.left.cpu() for update in made], dim=1)  # (d_v, r)
        factors = {f"{path}.lora_A.weight": rights, f"{path}.lora_B.weight": lefts}
        save_file(factors, scratch / WEIGHTS, metadata={"format": "pt"})
        stored = {"file": WEIGHTS, "sha256": file_sha256(scratch / WEIGHTS)}
        lines = [
            {"edit": number} | (_notes(update) | dict(row) | stored if update else dict(row))
            for number, (update, row) in enumerate(zip(updates, rows or [{}] * len(updates), strict=True), 1)
        ]
        base = {"name": model.name, "source": model.name} | model.origin
        base |= {"module": model.site.path, "dtype": str(model.site.weight.dtype).removeprefix("torch.")}
        settings = {"model": model.fingerprint, "layer": model.layer, **settings, "base": base, "rrome": __version__}
        (scratch / LINES).write_text("".join(map(as_line, [{"settings": settings}, *lines])), encoding="utf-8")
        _config(model, len(made)).save_pretrained(scratch)
        _write_card(scratch, model, settings, [line for line in lines if line["file"]], "peft")


def save_merged(folder: str | Path, model: Model, settings: Mapping[str, Any] | None = None) -> None:
    """Write the model as it is edited now as an ordinary transformers folder; RromeError as `save_adapter`."""
    model.record.verify()
    updates = [update for edits in model.record.edited for update in edits.updates]
    with _new_folder(folder, len(updates)) as scratch, quiet_bars():
        model.lm.save_pretrained(scratch)
        _check_saved(scratch, model)
        model.tokenizer.save_pretrained(scratch)
        _write_card(scratch, model, settings or {}, list(map(_notes, updates)), "transformers")


def _check_saved(folder: Path, model: Model) -> None:
    """RromeError where a weight on disk is not the model's; tied weights are saved once."""
    weights = model.lm.state_dict()
    saved: set[int] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                if name not in weights or not torch.equal(tensors.get_tensor(name), weights[name].cpu()):
                    raise RromeError(f"{name} in {folder} is not the model's: disk or transformers {VERSION} failed")
                saved.add(weights[name].data_ptr())
    if lost := [name for name, weight in weights.items() if weight.data_ptr() not in saved]:
        raise RromeError(f"{lost[0]} was not saved by transformers {VERSION}: the merged model would lack it")


def check_adapter(folder: Path, *, writing: bool = False) -> None:
    """RromeError for a folder that holds an adapter that this kit did not make, or any adapter when `writing`."""
    if not (folder / CONFIG).exists():
        return
    if not (folder / LINES).exists():
        what = f"the adapter {folder} was not made by this kit (it has no {LINES})"
        raise RromeError(f"{what}: load it with peft's PeftModel instead")
    if writing:
        remedy = "open it without a model, replay it, and log what follows elsewhere"
        raise RromeError(f"{folder} is an adapter, which is complete: {remedy}")


def read_updates(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[RankOneUpdate | None]:
    """The updates of an adapter that `save_adapter` wrote, one per row; RromeError for factors missing or changed."""
    file, made = folder / WEIGHTS, [row for row in rows if row["file"]]
    damaged = RromeError(f"{file} is missing or not the one that {LINES} beside it describes: restore both from a copy")
    if not file.exists() or {file_sha256(file)} != {row["sha256"] for row in made}:
        raise damaged
    rights, lefts = (factor for _, factor in sorted(load_file(file).items()))  # lora_A (r, d_k), lora_B (d_v, r)
    if len(rights) != len(made):
        raise damaged
    factors = zip(lefts.T.contiguous(), rights, strict=True)
    return [RankOneUpdate.of(*next(factors), row) if row["file"] else None for row in rows]


@contextlib.contextmanager
def _new_folder(folder: str | Path, n_updates: int) -> Iterator[Path]:
    """A new folder that appears only when all of it is written; RromeError for no update or a folder that is not empty."""
    folder = Path(folder).resolve()
    if not n_updates:
        raise RromeError(f"there is no edit to save in {folder}: apply an update first")
    with explained(folder):
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise RromeError(f"{folder} exists and is not empty: choose another folder, or remove it")
    with atomic(folder) as scratch:
        scratch.mkdir()
        yield scratch


def _config(model: Model, rank: int) -> Any:
    """peft's configuration: scaling alpha / r = 1, and the full name of W's module, which no other layer's ends with."""
    from peft import LoraConfig  # heavy, and needed for this alone

    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.address,
        revision=model.origin.get("revision"),
        r=rank,
        lora_alpha=rank,
        target_modules=[model.site.path],
        fan_in_fan_out=model.site.transposed,
        inference_mode=True,
    )


def _write_card(
    folder: Path, model: Model, settings: Mapping[str, Any], edits: Sequence[Mapping[str, Any]], library: str
) -> None:
    """Write README.md, from rrome/data/card.md.jinja, of an adapter ("peft") or a merged model ("transformers")."""
    data = ModelCardData(
        base_model=model.origin.get("source") or model.lm.name_or_path or model.name,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["rome", "model-editing", *(["lora"] if library == "peft" else [])],
    )
    known = {"fingerprint": model.fingerprint} | model.origin
    marks = [f"{name} {known[name]}" for name in ("fingerprint", "revision", "sha256") if known.get(name)]
    card = ModelCard.from_template(
        data,
        template_str=resources.files("rrome").joinpath("data", "card.md.jinja").read_text(encoding="utf-8"),
        name=Path(model.name).name,
        model=model,
        marks=", ".join(marks),
        rules=", ".join(sorted({edit["rule"] for edit in edits})),
        settings=settings,
        version=__version__,
        folder=folder.name,
        edits=edits,
        cell=_cell,
        quoted=json.dumps,
    )
    (folder / CARD).write_text(str(card), encoding="utf-8")


def _cell(text: str | None) -> str:
    """A text on one line, escaped for a Markdown table."""
    return re.sub(r"([|<\\])", r"\\\1", " ".join((text or "–").split()))


def _notes(update: RankOneUpdate) -> dict[str, Any]:
    """An update's notes and its size: ||Delta||_F and the paper's |Delta|."""
    return update.notes | {"delta_frobenius": update.norm, "delta": update.size}
