"""The reference: ROME by the book, slowly. One full forward pass per prompt per step; no batch, no padding, no cache.

It shares no code with the kit beyond the model object, and finds the subject's last token by its own means: the tests
hold the kit to it, and the benchmark measures the kit's speed against it.
"""

import torch
from torch.nn.functional import kl_div, log_softmax


def down_projection(model):
    return model.lm.get_submodule(model.site.path)


def weight_and_bias(model):
    module = down_projection(model)
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    return weight.detach(), 0 if module.bias is None else module.bias.detach()


def subject_position(model, before_subject, subject):
    """The number of tokens up to the end of the subject, minus one."""
    return len(model.tokenizer(before_subject + subject)["input_ids"]) - 1


def run(model, ids, position, delta=None):
    """Logits (T, V), and the input and output of W at `position`, with delta added to that output."""
    seen = {}

    def hook(module, args, out):  # one prompt at a time, so (1, T, d) and OPT's (T, d) flatten to the same rows
        seen["key"] = args[0].flatten(0, -2)[position].detach()
        if delta is not None:
            out = out.clone()
            out.view(len(ids), -1)[position] += delta
        seen["value"] = out.flatten(0, -2)[position].detach()
        return out

    handle = down_projection(model).register_forward_hook(hook)
    logits = model.lm(input_ids=torch.tensor([ids], device=model.device)).logits[0]
    handle.remove()
    return logits, seen["key"], seen["value"]


def prompts(model, fact, templates, leading=""):
    """(ids without the last target token, subject position, target ids) per template."""
    before, after = fact.prompt.split("{}")
    for template in templates:
        start, end = template.split("{}")
        prompt = leading + start + before + fact.subject + after + end
        ids = model.tokenizer(prompt + " " + fact.target_new)["input_ids"]
        target = ids[len(model.tokenizer(prompt)["input_ids"]) :]
        yield ids[:-1], subject_position(model, leading + start + before, fact.subject), target


def keys(model, fact, templates, leading=""):
    with torch.no_grad():
        return torch.stack([run(model, ids, at)[1] for ids, at, _ in prompts(model, fact, templates, leading)])


def value(model, fact, templates, leading="", *, lr=0.5, evaluations=20, stop=0.05, clamp=4.0, kl=0.0625, decay=0.5):
    """(v_e, delta, losses)."""
    rows = list(prompts(model, fact, templates, leading))
    kl_ids = model.tokenizer(leading + fact.subject + " is a")["input_ids"]
    kl_at = subject_position(model, leading, fact.subject)
    with torch.no_grad():
        v_0 = run(model, rows[0][0], rows[0][1])[2]
    delta = torch.zeros_like(v_0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=lr)
    first, losses = None, []
    for step in range(evaluations):
        nlls = []
        for ids, at, target in rows:
            log_probs = log_softmax(run(model, ids, at, delta)[0], -1)
            picked = [log_probs[len(ids) - len(target) + n, token] for n, token in enumerate(target)]
            nlls.append(-torch.stack(picked).mean())
        now = log_softmax(run(model, kl_ids, kl_at, delta)[0][kl_at : kl_at + 1], -1)
        first = now.detach() if first is None else first
        loss = torch.stack(nlls).mean() + kl * kl_div(first, now, log_target=True, reduction="batchmean")
        loss = loss + decay * delta.norm() / v_0.norm() ** 2
        losses.append(loss.item())
        if loss < stop or step == evaluations - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            if delta.norm() > clamp * v_0.norm():
                delta *= clamp * v_0.norm() / delta.norm()
    return v_0 + delta.detach(), delta.detach(), losses


def delta_matrix(model, fact, templates, c_0, choice, leading="", target=None):
    """Delta (d_v, d_k) of a rule given as an object with direction, denominator, residual."""
    all_keys = keys(model, fact, templates, leading)
    pick = {"average": all_keys.mean(0), "original": all_keys[0]}
    weight, bias = weight_and_bias(model)
    v_e = value(model, fact, templates, leading)[0] if target is None else target
    u = torch.linalg.solve(c_0.double(), pick[choice.direction].double())
    residual = v_e - (weight @ pick[choice.residual] + bias)
    return torch.outer(residual.double(), u) / (u @ pick[choice.denominator].double())
