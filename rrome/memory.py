"""The update on a random memory, where no model stands between the formula and what it promises.

W (d_v, d_k), C_0 (d_k, d_k), both keys (d_k,), v_e (d_v,): all drawn at random; b is the bias of W
"""

import torch

from .covariance import SecondMoment
from .keys import Keys
from .rules import RULES, rank_one_update
from .sites import EditSite
from .values import Value


def memory_errors(d_k: int = 24, d_v: int = 16, seed: int = 0) -> dict[str, dict[str, float]]:
    """Per rule the relative error ||W'k + b - v_e|| / ||v_e|| at both keys, for a random W, C_0, keys and v_e."""
    draw = torch.Generator().manual_seed(seed)
    memory = torch.nn.Linear(d_k, d_v)
    memory.weight.data = torch.randn(d_v, d_k, generator=draw)
    site = EditSite(0, "", memory, memory)
    stored = torch.randn(d_k, 4 * d_k, generator=draw, dtype=torch.float64)
    c0 = SecondMoment(stored @ stored.T / (4 * d_k), 4 * d_k, "", 0)
    keys = Keys(torch.randn(5, d_k, generator=draw))
    target = torch.randn(d_v, generator=draw)
    value = Value(target * 0, target, 1.0, 0, (), keys)
    errors: dict[str, dict[str, float]] = {}
    for rule in RULES:
        update = rank_one_update(site, keys, value, c0, rule)
        errors[rule] = {}
        for name in ("average", "original"):
            key = getattr(keys, name)
            after = site.value(key) + update.left * (update.right @ key)
            errors[rule][name] = ((after - target).norm() / target.norm()).item()
    return errors
