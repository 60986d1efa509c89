"""C_0 = E[k k^T]: the second moment of the keys of ordinary text at the edit site.

    K   (n, d_k)    keys of n tokens of text          C_0 = K^T K / n   (d_k, d_k), uncentred

It is accumulated and factored in float64, solved by Cholesky, and cached on disk.
"""

import functools
import sys
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..facts.text import FACTBOOK, named_texts
from ..model.model import Model
from ..model.tokens import batches, pad_right
from ..store.disk import RromeError, atomic, bar, cache_dir, digest, file_sha256
from .keys import capture_inputs

WINDOW = 512  # tokens of text in one input, at most
ROUNDING = 1e-12  # of float64, over a few thousand dimensions


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """C_0 of one model and layer: `matrix` (d_k, d_k) in float64, from `count` tokens; `key` names its cache file."""

    matrix: torch.Tensor
    count: int
    fingerprint: str
    layer: int
    key: str = "not cached"
    cholesky: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self):
        _check_count(self.count, len(self.matrix))
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        unexplained = factor.diagonal().square() / self.matrix.diagonal()  # of each neuron, by those before it
        if failed or not (unexplained > ROUNDING).all():
            what = f"C_0 of layer {self.layer} is not positive definite ({self.count} tokens)"
            if dead := (self.matrix.diagonal() == 0).nonzero().flatten().tolist():
                names = ", ".join(map(str, dead[:5])) + (", ..." if len(dead) > 5 else "")
                what += f", since {len(dead)} of {len(self.matrix)} neurons never fire in this text (number {names})"
            raise RromeError(f"{what}: give more or other text, edit another layer, or give ridge=1e-6")
        object.__setattr__(self, "cholesky", factor)

    def solve(self, key: torch.Tensor) -> torch.Tensor:
        """C_0^-1 k for a key (d_k,) or several (N, d_k), in float64 on the CPU."""
        columns = key.cpu().to(self.matrix).view(-1, key.shape[-1]).T  # (d_k, N)
        return torch.cholesky_solve(columns, self.cholesky).T.view(key.shape)

    @functools.cached_property
    def eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues (d_k,) in ascending order and eigenvectors (d_k, d_k), a column each, of C_0; made once."""
        return tuple(torch.linalg.eigh(self.matrix))

    def check(self, model: Model) -> None:
        """RromeError unless this C_0 belongs to the model's layer, as the layers below it are now."""
        if (self.fingerprint, self.layer) != (model.state, model.layer):
            what = f"this second moment belongs to model {self.fingerprint}, layer {self.layer}"
            remedy = "call second_moment(model, texts) for it, or revert what was edited in a layer below"
            raise RromeError(f"{what}, not to {model.name} ({model.state}), layer {model.layer}: {remedy}")


def second_moment(
    model: Model,
    texts: Sequence[str],
    n_tokens: int | None = 100_000,
    *,
    ridge: float = 0.0,
    cache: bool = True,
    progress: bool | None = None,
) -> SecondMoment:
    """C_0 over the first `n_tokens` tokens of the texts (all of them when None), from the cache when it is there.

    `ridge` times the mean of the diagonal is added to it, for a layer with neurons that never fire. While a layer below l*
    is edited, C_0 is that of the edited model and is not cached. `progress` None shows a bar in a terminal or notebook only.
    Raises RromeError for text too short, for fewer tokens than d_k, or for a matrix that is not positive definite.
    """
    windows = _windows(model, texts, n_tokens)
    model.record.verify()
    cache = cache and model.state == model.fingerprint
    count = sum(map(len, windows))
    what = {"fingerprint": model.fingerprint, "layer": model.layer, "tokens": count}
    key = f"{model.name.replace('/', '--')[-150:]}-layer{model.layer}-{count}-{digest(what, windows)}"
    path = cache_dir() / "second_moments" / f"{key}.safetensors"
    matrix = _read(path, key, model.record.mark) if cache else None
    if matrix is None:
        matrix = _estimate(model, windows, progress)
        if cache:
            _keep(path, matrix, {"key": key, "sums": model.record.mark})
    if ridge:
        key, added = f"{key}-ridge{ridge:g}", torch.full((len(matrix),), ridge * matrix.diagonal().mean().item())
        matrix = matrix + added.double().diag()
    return SecondMoment(matrix, count, model.state, model.layer, key)


def second_moment_from(model: Model, source: str | Path = FACTBOOK, n_tokens: int = 100_000) -> SecondMoment:
    """C_0 from `n_tokens` tokens of a text (see `named_texts`) or a statistics file (.npz, see `read_second_moment`)."""
    if Path(source).suffix == ".npz":
        return read_second_moment(model, source)
    return second_moment(model, named_texts(source, n_tokens), n_tokens)


def read_second_moment(model: Model, path: str | Path) -> SecondMoment:
    """C_0 from a statistics file that the original ROME code publishes or writes.

    The .npz holds the sum of k k^T as "mom2.mom2" (d_k, d_k) and the number of tokens as "mom2.count"; its name starts
    with the path of W. Raises RromeError for another kind of file, or one that does not fit the model and its layer.
    """
    path, place, d_k = Path(path), model.site.path, model.site.weight.shape[1]
    try:
        with np.load(path, allow_pickle=False) as file:
            total, count = torch.from_numpy(file["mom2.mom2"]).double(), int(file["mom2.count"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RromeError(f"{path} is not a statistics file of ROME with mom2.mom2 and mom2.count: {error}") from error
    if not path.name.startswith(f"{place}_"):
        remedy = f"take that matrix's file, or, if this is it, call it {place}_float32_mom2_{count}.npz"
        raise RromeError(f"the name {path.name} is not that of {place}, where the model is edited: {remedy}")
    if tuple(total.shape) != (d_k, d_k):
        shape = tuple(total.shape)
        raise RromeError(f"{path} holds a matrix {shape}, W of {model.name} reads keys of {d_k}: another model")
    if count < 1 or not torch.allclose(total, total.T, rtol=1e-3, atol=1e-3 * total.abs().max().item()):
        raise RromeError(f"{path} holds no second moment: {count} tokens, or a matrix that is not symmetric")
    key = f"{path.stem}-{file_sha256(path)[:16]}"
    return SecondMoment((total + total.T) / (2 * count), count, model.fingerprint, model.layer, key)


def _check_count(count: int, d_k: int) -> None:
    if count < d_k:
        remedy = "give more text or raise n_tokens"
        raise RromeError(f"C_0 needs at least d_k = {d_k} tokens to be invertible, got {count}: {remedy}")


def _windows(model: Model, texts: Sequence[str], n_tokens: int | None) -> list[list[int]]:
    """The first `n_tokens` tokens of the texts (None: all), cut into windows of at most WINDOW tokens."""
    texts = [texts] if isinstance(texts, str) else texts
    size = min(WINDOW, model.context)
    windows, left = [], sys.maxsize if n_tokens is None else n_tokens
    for text in texts:
        if left <= 0:
            break
        ids = model.encode(text)[:left]
        left -= len(ids)
        windows += [ids[start : start + size] for start in range(0, len(ids), size)]
    count = sum(map(len, windows))
    if n_tokens is not None and count < n_tokens:
        remedy = "give more text or lower n_tokens"
        raise RromeError(f"the text is too short: {count} tokens where n_tokens={n_tokens}; {remedy}")
    _check_count(count, model.site.weight.shape[1])
    return windows


def _estimate(model: Model, windows: Sequence[list[int]], progress: bool | None) -> torch.Tensor:
    """K^T K / n in float64, one forward pass up to W per batch of windows of similar length."""
    d_k, total = model.site.weight.shape[1], sum(map(len, windows))
    device = model.device if model.device.type == "cuda" else "cpu"  # others lack float64: a Mac's MPS, some of Intel's
    matrix = torch.zeros(d_k, d_k, dtype=torch.float64, device=device)
    with bar(total=total, desc=f"C_0 of layer {model.layer}", unit=" tokens", show=progress) as done:
        for batch in batches(sorted(windows, key=len, reverse=True), len):
            ids = pad_right(batch, model.pad, model.device)
            lengths = torch.tensor([len(row) for row in batch], device=model.device)
            real = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]  # (B, T)
            keys = capture_inputs(model, ids)[real]  # (n, d_k)
            if not keys.isfinite().all():
                raise RromeError(f"keys of layer {model.layer} hold NaN or infinity: check the weights of {model.name}")
            keys = keys.to(matrix.device).double()
            matrix.addmm_(keys.T, keys)
            done.update(len(keys))
    return matrix.div_(total).cpu()


def _keep(path: Path, matrix: torch.Tensor, about: dict[str, str]) -> None:
    try:
        with atomic(path) as scratch:
            save_file({"matrix": matrix}, scratch, metadata=about)
    except RromeError as error:  # nothing is lost but time
        warnings.warn(f"C_0 is made anew in the next session: {error}", stacklevel=3)


def _read(path: Path, key: str, mark: str) -> torch.Tensor | None:
    """The cached matrix, or None when there is none; a file damaged, or of other weights, is reported and counts as none."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about, matrix = file.metadata(), file.get_tensor("matrix")
        if about.get("key") != key or not matrix.isfinite().all():
            raise SafetensorError("it holds another entry, or NaN")
        if about.get("sums", mark) != mark:  # an older file has none
            raise SafetensorError("it is of a model that differs in a few weights only")
        return matrix
    except (OSError, SafetensorError, AttributeError) as error:
        warnings.warn(f"the cached C_0 {path.name} is damaged, or no use ({error}): computing it again", stacklevel=3)
        return None
