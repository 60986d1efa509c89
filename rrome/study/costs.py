"""What the studies cost a device: products with weight matrices, which no way of running them avoids, and memory.

A load is a Counter of FLOPs by (rows, kind). `rows` is how many tokens one product has, since few make slow ones; the kinds are
    forward, back   products with the model's weights, on the device
    moment          K^T K in float64, on the device
    solve           C_0^-1 k in float64, on the host

In float32 bytes, memory is the weights, a copy of W, and the largest of
    search   facts at once * (live tokens * blocks above l* * (outputs of a block's linear maps + 4 d_v) + 3 V read) * 4
    probes   tokens of texts in one batch * 2 V * 4
    C_0      8 d_k^2 + 16 d_k * tokens of a batch
where live tokens are those from the subject's last one on, V is the vocabulary and `read` how often a search reads it.

`Costs` counts both for one model from its shapes alone; `Rates` measures what a device makes of them.
"""

import math
from collections import Counter

import torch

from ..facts.fact import load_facts
from ..model.model import Model
from ..model.site import blocks_of
from ..model.tokens import BARE, BATCH_TOKENS, read_row, with_target
from ..update.value import Search
from .speed import linear_maps, product_seconds, search_products, weights_of

FLOAT = 4  # bytes
Load = Counter[tuple[int, str]]
TEMPLATES = [BARE, *[f"{'and ' * length}. {BARE}" for length in (5, 10) for _ in range(10)]]  # as long as sampled ones
EXAMPLES = 20  # facts whose prompts say how long prompts are
CHUNK = 1024  # rows beyond which a product is no faster per row
FILL = 2**28  # bytes of weights that are timed: more than a processor's caches hold
SIDE = 2048  # of the float64 matrices that are timed, at most


class Costs:
    """Loads of one model, its weights not needed (see models.outline), with prompts as long as those of the embedded facts."""

    def __init__(self, model: Model, at_once: int = 1):
        self.at_once = at_once  # facts that a single-edit study searches in one batch
        blocks, facts = blocks_of(model.lm), load_facts("world", n=EXAMPLES, seed=0)
        numbers = [sum(weight.numel() for weight in weights_of(linear_maps(block))) for block in blocks]
        self.model, self.d_k = model, model.site.weight.shape[1]
        self.below, self.above = sum(numbers[: model.layer + 1]), sum(numbers[model.layer + 1 :])
        self.head = model.lm.get_output_embeddings().weight.numel()
        self.vocabulary = model.lm.get_output_embeddings().weight.shape[0]
        rows = [read_row(model, fact, template, target=fact.target_new) for fact in facts for template in TEMPLATES]
        self.tokens = round(sum(len(row.ids) - 1 for row in rows) / EXAMPLES)  # of a search,
        self.live = round(sum(len(row.ids) - 1 - row.subject for row in rows) / EXAMPLES)  # from the subject's last on,
        self.read = round(sum(row.n_target for row in rows) / EXAMPLES) + 1  # and where the vocabulary is read
        kinds = [[fact.rewrite, *fact.paraphrases, *fact.neighbourhood] for fact in facts]
        asked = [
            len(with_target(model, prompt, target)[0]) - 1
            for fact, prompts in zip(facts, kinds, strict=True)
            for prompt in prompts
            for target in (fact.target_new, fact.answer)
        ]
        self.prompts, self.prompt = (
            len(asked) / EXAMPLES,
            sum(asked) / len(asked),
        )  # prompts with targets, tokens of one

    def passed(self, tokens: float, weights: int, rows: float = CHUNK) -> Load:
        """So many tokens through so many weights, `rows` of them at a time."""
        return Counter({(round(min(rows, CHUNK)) or 1, "forward"): round(2 * weights * tokens)})

    def search(self, n: float, at_once: int = 1) -> Load:
        """n searches of v_e, so many in one batch."""
        evaluations = Search(**self.model.published).evaluations
        load: Load = Counter()
        for products, back, times in search_products(self.model, self.tokens, self.live, self.read, evaluations):
            for weight, rows in products:
                place = (max(1, min(rows * at_once, CHUNK)), "back" if back else "forward")
                load[place] += round(2 * weight.numel() * rows * times * n)
        return load

    def naive_search(self) -> Load:
        """One search as the naive solver makes it: all of the model on all tokens, prompt by prompt, forward and back."""
        tokens = 3 * Search(**self.model.published).evaluations * self.tokens
        return self.passed(tokens, self.below + self.above + self.head, self.tokens / len(TEMPLATES))

    def edits(self, n: float, rules: int, at_once: int = 1) -> Load:
        """n facts searched, with their updates under so many rules."""
        return self.search(n, at_once) + self.solves(n * rules)

    def keys(self, n: float) -> Load:
        """The keys of n facts, and their preflight."""
        return self.passed(n * self.tokens, self.below) + self.solves(2 * n)

    def measure(self, n: float, models: int, more: int = 0) -> Load:
        """The probabilities at all prompts of n facts, and at `more` each, in so many edited models at once."""
        prompts = n * (self.prompts + 2 * more)
        through = self.passed(prompts * self.prompt, self.below + models * self.above)
        return through + self.passed(prompts * models, self.head)

    def probe(self, tokens: float, models: int) -> Load:
        """The perplexity of a short text in so many edited models at once."""
        return self.passed(tokens, self.below + models * (self.above + self.head))

    def speak(self, rows: int, steps: int) -> Load:
        """So many tokens said after each of so many prompts in one batch."""
        weights = self.below + self.above
        return self.passed(rows * self.prompt, weights) + self.passed(rows * steps, weights + self.head, rows)

    def text(self, tokens: float) -> Load:
        """Perplexity of running text."""
        return self.passed(tokens, self.below + self.above + self.head, 512)

    def second_moment(self, tokens: float) -> Load:
        """C_0."""
        return self.passed(tokens, self.below) + Counter({(CHUNK, "moment"): round(2 * self.d_k**2 * tokens)})

    def solves(self, n: float) -> Load:
        """n times C_0^-1 k."""
        return Counter({(1, "solve"): round(2 * self.d_k**2 * n)})

    def memory(self, at_once: int, probed: float) -> float:
        """Bytes on the device: the weights, a copy of W, and the largest of search, probes and C_0."""
        weights = FLOAT * (self.model.lm.num_parameters() + self.model.site.weight.numel())
        probes = FLOAT * probed * 2 * self.vocabulary
        c_0 = 8 * self.d_k**2 + 16 * self.d_k * BATCH_TOKENS
        return weights + max(self.search_memory(at_once), probes, c_0)

    def search_memory(self, at_once: int) -> float:
        """Bytes that a search of so many facts keeps for the way back."""
        maps = weights_of(linear_maps(blocks_of(self.model.lm)[self.model.layer]))
        kept = sum(weight.shape[0] for weight in maps) + 4 * self.model.site.weight.shape[0]  # per token and block
        above = self.model.depth - 1 - self.model.layer
        return FLOAT * at_once * (self.live * above * kept + 3 * self.vocabulary * self.read)


def times(n: float, load: Load) -> Load:
    """A load n times over."""
    return Counter({place: round(n * flops) for place, flops in load.items()})


class Rates:
    """FLOPs per second on a device, measured with matrices of the model's shapes and random entries, each kind once."""

    def __init__(self, model: Model, device: torch.device):
        maps = weights_of(linear_maps(blocks_of(model.lm)[model.layer]))
        copies = min(model.depth, math.ceil(FILL / sum(4 * weight.numel() for weight in maps)))
        side = min(model.site.weight.shape[1], SIDE)
        moments = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        self._weights = {
            "forward": [torch.randn(weight.shape, device=device) for _ in range(copies) for weight in maps],
            "moment": [torch.randn(side, side, device=moments, dtype=torch.float64)],
            "solve": [torch.randn(side, side, dtype=torch.float64)],
        }
        self._weights["back"] = self._weights["forward"]
        self._found: dict[tuple[int, str], float] = {}

    def rate(self, rows: int, kind: str) -> float:
        """FLOPs per second at so many rows."""
        if (rows, kind) not in self._found:
            products = [(weight, rows) for weight in self._weights[kind]]
            flops = sum(2 * weight.numel() * rows for weight, _ in products)
            self._found[rows, kind] = flops / product_seconds(products, kind == "back")
        return self._found[rows, kind]

    def seconds(self, load: Load) -> float:
        """What a load takes at these rates."""
        return sum(flops / self.rate(*place) for place, flops in load.items())
