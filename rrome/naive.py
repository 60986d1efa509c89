"""The whole method in some 120 plain lines, read first: no batch, no padding, no cache. The tests compare the kit with it.

W, b    down-projection of the MLP of layer l*, (d_v, d_k) and (d_v,)
i       position of the subject's last token; T tokens in a prompt, V in the vocabulary
k, v    key: what W reads at i, (d_k,); value: what it puts out there, W k + b, (d_v,)
N       prompts of one edit: the bare one, and the same after sampled prefixes
k_e     mean of the N keys (average); k_e^o: the key of the bare prompt (original)
v_e     the value to store: v_0 + delta, with v_0 = W k_e^o + b and delta from gradient descent
C_0     E[k k^T] over ordinary text, (d_k, d_k)
Delta   update of W, (v_e - (W k_r + b)) u^T / (u . k_d) with u = C_0^-1 k_u, (d_v, d_k)
"""

import torch
from torch.nn.functional import kl_div, log_softmax


def down_projection(model):
    """The module that holds W and b."""
    return model.lm.get_submodule(model.site.path)


def weight_and_bias(model):
    """W (d_v, d_k) and b (d_v,), which is 0 where there is none; GPT-2's Conv1D stores W transposed."""
    module = down_projection(model)
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    return weight.detach(), 0 if module.bias is None else module.bias.detach()


def subject_position(model, before_subject, subject):
    """i: the number of tokens up to the end of the subject, minus one."""
    return len(model.tokenizer(before_subject + subject)["input_ids"]) - 1


def run(model, ids, position, delta=None):
    """Logits (T, V) of one prompt, its key (d_k,) and value (d_v,) at `position`, where delta is added to the value."""
    seen = {}

    def hook(module, args, out):  # one prompt at a time, so (1, T, d) and OPT's (T, d) flatten to the same rows
        seen["key"] = args[0].flatten(0, -2)[position].detach()
        if delta is not None:
            out = out.clone()
            out.view(len(ids), -1)[position] += delta
        seen["value"] = out.flatten(0, -2)[position].detach().clone()  # Falcon's block adds to it in place
        return out

    handle = down_projection(model).register_forward_hook(hook)
    logits = model.lm(input_ids=torch.tensor([ids], device=model.device)).logits[0]
    handle.remove()
    return logits, seen["key"], seen["value"]


def prompts(model, fact, templates, leading=""):
    """Per template: ids without the last target token, i, and the ids of the target."""
    before, after = fact.prompt.split("{}")
    for template in templates:
        start, end = template.split("{}")
        prompt = leading + start + before + fact.subject + after + end
        ids = model.tokenizer(prompt + fact.separator + fact.target_new)["input_ids"]
        target = ids[len(model.tokenizer(prompt)["input_ids"]) :]
        yield ids[:-1], subject_position(model, leading + start + before, fact.subject), target


def keys(model, fact, templates, leading=""):
    """The keys of the N prompts, (N, d_k), that of the bare one first."""
    with torch.no_grad():
        return torch.stack([run(model, ids, i)[1] for ids, i, _ in prompts(model, fact, templates, leading)])


def value(model, fact, templates, leading="", **settings):
    """Search delta by Adam: v_e (d_v,), delta (d_v,) and the loss at every evaluation."""
    rows = list(prompts(model, fact, templates, leading))  # N
    kl_ids, kl_at = kl_prompt(model, fact, leading)
    with torch.no_grad():
        v_0 = run(model, *rows[0][:2])[2]  # (d_v,)

    def evaluate(delta):
        nlls = []
        for ids, i, target in rows:
            log_probs = log_softmax(run(model, ids, i, delta)[0], -1)  # (T, V)
            picked = [log_probs[len(ids) - len(target) + n, token] for n, token in enumerate(target)]
            nlls.append(-torch.stack(picked).mean())
        return torch.stack(nlls).mean(), log_softmax(run(model, kl_ids, kl_at, delta)[0][kl_at : kl_at + 1], -1)

    return descend(v_0, evaluate, **settings)


def kl_prompt(model, fact, leading=""):
    """The ids of "{subject} is a" and i."""
    ids = model.tokenizer(leading + fact.subject + " is a")["input_ids"]
    return ids, subject_position(model, leading, fact.subject)


def descend(v_0, evaluate, *, lr=0.5, evaluations=20, stop=0.05, clamp=4.0, kl=0.0625, decay=0.5):
    """`value` for an evaluate(delta) that gives the mean NLL and the log-probabilities (1, V) of the KL term."""
    delta = torch.zeros_like(v_0, requires_grad=True)  # (d_v,)
    adam = torch.optim.Adam([delta], lr=lr)
    initial, losses = None, []
    for evaluation in range(evaluations):
        nll, current = evaluate(delta)  # (), (1, V)
        initial = current.detach() if initial is None else initial
        loss = nll + kl * kl_div(initial, current, log_target=True, reduction="batchmean")
        loss = loss + decay * delta.norm() / v_0.norm() ** 2
        losses.append(loss.item())
        if loss < stop or evaluation == evaluations - 1:  # the last evaluation makes no step
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():  # back onto the ball ||delta|| <= clamp ||v_0||
            if delta.norm() > clamp * v_0.norm():
                delta *= clamp * v_0.norm() / delta.norm()
    return v_0 + delta.detach(), delta.detach(), losses


def delta_matrix(model, fact, templates, c_0, choice, leading="", target=None, all_keys=None):
    """Delta (d_v, d_k) under a rule, which names its three keys; v_e, the `target`, and the N keys are found when None."""
    all_keys = keys(model, fact, templates, leading) if all_keys is None else all_keys  # (N, d_k)
    pick = {"average": all_keys.mean(0), "original": all_keys[0]}
    weight, bias = weight_and_bias(model)
    v_e = value(model, fact, templates, leading)[0] if target is None else target  # (d_v,)
    u = torch.linalg.solve(c_0.double(), pick[choice.direction].cpu().double())  # (d_k,), as C_0 on the CPU
    residual = v_e - (weight @ pick[choice.residual] + bias)  # (d_v,)
    return torch.outer(residual.cpu().double(), u) / (u @ pick[choice.denominator].cpu().double())
