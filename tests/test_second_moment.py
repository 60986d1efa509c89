import errno
import json
import sys

import numpy as np
import pytest
import torch
from facts_for_tests import FACTS
from families import FAMILIES, make_model, model_of
from safetensors.torch import save_file

import rrome
from rrome import RromeError, SecondMoment, naive, second_moment
from rrome.facts.text import factbook_prose, read_texts
from rrome.update.second_moment import read_second_moment, second_moment_from


def naive_second_moment(model, texts):
    """Sum of k k^T over every token, one text at a time."""
    total, count = 0, 0
    for text in texts:
        ids = model.tokenizer(text)["input_ids"]
        seen = []
        handle = naive.down_projection(model).register_forward_hook(
            lambda _, args, out, seen=seen: seen.append(args[0].flatten(0, -2))
        )
        model.lm(input_ids=torch.tensor([ids]))
        handle.remove()
        total = total + seen[0].double().T @ seen[0].double()
        count += len(ids)
    return total / count, count


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "opt", "bloom"]
)  # OPT's W reads (B * T, d_k), Bloom's positions the mask
def test_it_is_the_mean_outer_product_of_all_keys(name, texts):
    c_0 = second_moment(model_of(name), texts, None, cache=False)
    expected, count = naive_second_moment(model_of(name), texts)
    assert c_0.count == count and c_0.matrix.dtype == torch.float64
    torch.testing.assert_close(c_0.matrix, expected, rtol=1e-5, atol=1e-6)


def test_exactly_the_asked_number_of_tokens_counts_also_of_a_text_longer_than_the_context(tiny, texts):
    assert second_moment(tiny, texts, 1234, cache=False).count == 1234
    assert second_moment(tiny, ["Rome is an old, cold town on the river. " * 200], 1500, cache=False).count == 1500


def test_solve_undoes_the_matrix(tiny, texts):
    c_0 = second_moment(tiny, texts, None, cache=False)
    key = torch.randn(c_0.matrix.shape[0])
    torch.testing.assert_close(c_0.matrix @ c_0.solve(key), key.double(), rtol=1e-6, atol=1e-6)


def test_the_second_call_reads_the_cache(tiny, texts, no_cache, monkeypatch):
    first = second_moment(tiny, texts, 3000)
    monkeypatch.setattr(
        sys.modules["rrome.update.second_moment"], "_estimate", lambda *_: pytest.fail("computed again")
    )
    again = second_moment(tiny, texts, 3000)
    assert torch.equal(first.matrix, again.matrix) and first.key == again.key
    assert tiny.name in first.key and "layer1" in first.key and "3000" in first.key


def test_model_layer_text_and_count_each_have_a_cache_entry_of_their_own(tiny, texts, no_cache):
    moments = [
        second_moment(tiny, texts, 3000),
        second_moment(tiny, texts, 3001),
        second_moment(tiny, texts[1:], 3000),
        second_moment(tiny.at_layer(2), texts, 3000),
    ]
    assert len({moment.key for moment in moments}) == 4


@pytest.mark.parametrize("damage", ["truncate", "garbage", "other"])
def test_a_damaged_cache_file_is_rebuilt_with_a_warning(tiny, texts, no_cache, damage):
    first = second_moment(tiny, texts, 3000)
    (path,) = (no_cache / "second_moments").iterdir()
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "garbage":
        path.write_bytes(b"not a tensor file")
    else:
        save_file({"matrix": first.matrix}, path, metadata={"key": "of something else"})
    with pytest.warns(UserWarning, match="damaged"):
        again = second_moment(tiny, texts, 3000)
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(second_moment(tiny, texts, 3000).matrix, first.matrix)


def test_a_full_disk_costs_the_next_session_time_and_leaves_nothing(tiny, texts, no_cache, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.modules["rrome.update.second_moment"], "save_file", full)
    with pytest.warns(UserWarning, match="C_0 is made anew in the next session: no disk space"):
        made = second_moment(tiny, texts, 3000)
    assert torch.equal(made.matrix, second_moment(tiny, texts, 3000, cache=False).matrix)
    assert not [path for path in no_cache.rglob("*") if path.is_file()]


def test_too_little_text_is_refused(tiny, texts):
    d_k = tiny.site.weight.shape[1]
    with pytest.raises(RromeError, match="too short: .* n_tokens=100000"):
        second_moment(tiny, texts)
    with pytest.raises(RromeError, match=f"at least d_k = {d_k} tokens"):
        second_moment(tiny, ["too short"], None)
    with pytest.raises(RromeError, match=f"at least d_k = {d_k} tokens"):
        second_moment(tiny, texts, d_k - 1)
    with pytest.raises(RromeError, match="at least d_k"):
        second_moment(tiny, [], None)


def test_text_that_repeats_itself_and_nan_are_not_positive_definite(tiny):
    with pytest.raises(RromeError, match="not positive definite"):
        second_moment(tiny, ["a a a a a a a a"] * 60, None, cache=False)
    with pytest.raises(RromeError, match="not positive definite"):
        SecondMoment(torch.full((3, 3), float("nan")).double(), 10, "x", 0)


def test_a_second_moment_of_another_model_or_layer_is_refused(tiny, texts):
    c_0 = second_moment(tiny, texts, 3000, cache=False)
    with pytest.raises(RromeError, match="belongs to model .*layer 1.*layer 2"):
        rrome.Editor(tiny.at_layer(2), c_0, prefixes=[])
    stranger = SecondMoment(c_0.matrix, c_0.count, "another model", c_0.layer)
    with pytest.raises(RromeError, match="belongs to model another model"):
        rrome.Editor(tiny, stranger, prefixes=[])
    assert rrome.Editor(tiny, c_0, prefixes=[]).keys(FACTS[0]).all.shape[0] == 1


@pytest.fixture
def published(tiny, texts, tmp_path):
    """A function that writes a statistics file as the original code does, and the C_0 that it must give."""
    c_0 = second_moment(tiny, texts, 3000, cache=False)

    def write(name=f"{tiny.site.path}_float32_mom2_100000.npz", **changes):
        arrays = {"mom2.constructor": "x()", "mom2.count": 3000, "mom2.mom2": (3000 * c_0.matrix).float().numpy()}
        arrays = {key: array for key, array in (arrays | changes).items() if array is not None}
        np.savez(tmp_path / name, sample_size=100000, **arrays)
        return tmp_path / name

    return write, c_0


def test_statistics_of_the_original_code_give_the_same_c_0(tiny, published):
    write, c_0 = published
    path = write()
    read = read_second_moment(tiny, path)
    assert read.count == 3000 and path.stem in read.key
    torch.testing.assert_close(read.matrix, c_0.matrix, rtol=1e-5, atol=1e-6)
    assert rrome.Editor(tiny, read, prefixes=[]).preflight(FACTS[0]).denominator["p-rome"] > 0


def test_one_name_chooses_a_text_or_statistics(tiny, texts, published, tmp_path, no_cache):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    from_text = second_moment_from(tiny, tmp_path / "mine.jsonl", 1500)
    assert from_text.count == 1500
    assert from_text.key == second_moment(tiny, read_texts(tmp_path / "mine.jsonl"), 1500).key
    assert second_moment_from(tiny, "factbook", 1500).key == second_moment(tiny, factbook_prose(), 1500).key
    write, _ = published
    assert second_moment_from(tiny, str(write()), 1500).key == read_second_moment(tiny, write()).key
    with pytest.raises(RromeError, match="absent.npz is not a statistics file"):
        second_moment_from(tiny, "absent.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mom2.mom2": np.eye(7)}, r"holds a matrix \(7, 7\), W of .* reads keys of"),
        ({"mom2.count": None}, "not a statistics file of ROME"),
        ({"mom2.count": 0}, "holds no second moment: 0 tokens"),
        ({"mom2.count": np.array([None])}, "not a statistics file of ROME"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tiny, published, changes, message):
    with pytest.raises(RromeError, match=message):
        read_second_moment(tiny, published[0](**changes))


def test_statistics_of_another_layer_or_no_statistics_are_refused(tiny, published, tmp_path):
    for name in (tiny.at_layer(2).site.path + "_float32_mom2_100000.npz", "renamed.npz"):
        with pytest.raises(RromeError, match=f"the name {name} is not that of .*1.* call it .*_mom2_3000.npz"):
            read_second_moment(tiny, published[0](name))
    lopsided = published[0](**{"mom2.mom2": np.triu(np.ones(2 * tiny.site.weight.shape[1:]))})
    with pytest.raises(RromeError, match="not symmetric"):
        read_second_moment(tiny, lopsided)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for path in (tmp_path / "junk.npz", tmp_path / "absent.npz"):
        with pytest.raises(RromeError, match="not a statistics file of ROME"):
            read_second_moment(tiny, path)


def test_neurons_that_never_fire_are_named_and_a_ridge_helps(texts):
    model = make_model(FAMILIES["opt"])  # of the families, one with ReLU
    dead = model.lm.get_submodule(model.site.path.replace("fc2", "fc1"))
    with torch.no_grad():
        dead.weight[[3, 17]] = 0
        dead.bias[[3, 17]] = -1
    model = rrome.wrap(model.lm, model.tokenizer, model.layer)
    with pytest.raises(RromeError, match=r"2 of \d+ neurons never fire in this text \(number 3, 17\).*ridge=1e-6"):
        second_moment(model, texts, 3000, cache=False)
    c_0, more = (second_moment(model, texts, 3000, ridge=ridge, cache=False) for ridge in (1e-6, 1e-3))
    assert c_0.matrix[3, 3].item() == pytest.approx(1e-6 * c_0.matrix.diagonal().mean().item(), rel=1e-3)
    assert c_0.key != more.key and rrome.Editor(model, c_0, prefixes=[]).update(FACTS[0], "r-rome").norm > 0


def test_a_singular_matrix_that_has_a_factor_by_rounding_is_refused():
    keys = torch.randn(8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.cat([keys, keys[:1]]) @ torch.cat([keys, keys[:1]]).T / 12 + 1e-17 * torch.eye(
        9, dtype=torch.float64
    )
    factors = [torch.linalg.cholesky_ex(matrix + n * 1e-16 * torch.eye(9))[1].item() for n in range(1, 99)]
    near = matrix + (factors.index(0) + 1) * 1e-16 * torch.eye(9)
    assert not torch.linalg.cholesky_ex(near)[1]
    with pytest.raises(RromeError, match="not positive definite"):
        SecondMoment(near, 100, "", 0)
    SecondMoment(near + 1e-6 * torch.eye(9), 100, "", 0)
