"""What each weight matrix of a model reads, in one pass over texts: the energy of its inputs in
given directions.
"""

import re

import torch

from brittle.data.batches import batches
from brittle.diagnostics.common import TOKENS
from brittle.models.architectures import is_transposed
from brittle.models.blocks import block_count
from brittle.models.hooks import hidden

EXPERT = re.compile(r"(.*\.experts)\.(?:(\d+)\.)?(\w+)(?:\[(\d+)\])?$")


def owner(model, name):
    """(module, None) whose input the matrix `name` multiplies, or (its experts, (which, is it a
    down-projection)); or None.

    Stacks [experts, in, out] have no owner here: `routed` does not know what their experts compute
    (gpt-oss has biases and a gate of its own, Llama 4 scales what an expert reads).
    """
    if is_transposed(model.config, re.sub(r"\[\d+\]$", "", name)) and EXPERT.match(name):
        return None
    stack = EXPERT.match(name.removesuffix(".weight"))
    path = stack[1] if stack else name.removesuffix(".weight")
    for full in (path, f"{model.base_model_prefix}.{path}"):
        try:
            module = model.get_submodule(full)
        except AttributeError:
            continue
        if not stack:
            return module, None
        if hasattr(module, "gate_up_proj") and hasattr(module, "down_proj"):
            return module, (int(stack[2] or stack[4]), "down" in stack[3])
    return None


def routed(module, expert, down, hidden, chosen):
    """(tokens [n], inputs [n, d]) of one expert's matrix, from the experts' input [tokens, D] and
    the `chosen` experts [tokens, k].
    """
    tokens = (chosen == expert).any(-1).nonzero()[:, 0]
    x = hidden[tokens]
    if down:
        gate, up = (x @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
        x = module.act_fn(gate) * up
    return tokens, x


class Energies:
    """Per text: energy of one matrix's inputs in each direction of dW, of W, and in all; sums,
    float64 [texts, 2 k + 1].
    """

    def __init__(self, found, texts, expert=None):
        self.found, self.k, self.expert, self.tokens = found, found["V"].shape[1], expert, 0
        self.sums = torch.zeros(
            texts, 2 * self.k + 1, dtype=torch.float64, device=found["V"].device
        )

    def add(self, x, owners):
        """Inputs x [tokens, n] of the texts `owners` [tokens]."""
        x, vectors = x.float(), self.found
        parts = [
            (x @ vectors["V"]).square(),
            (x @ vectors["W_V"]).square(),
            x.square().sum(1, keepdim=True),
        ]
        self.sums.index_add_(0, owners, torch.cat(parts, 1).double())
        self.tokens += len(x)

    def watch(self, module, args, mask, owners):
        """What a forward pre-hook of the module sees; mask [B, T], owners [B, T] the text of each
        token.
        """
        x = args[0].reshape(mask.numel(), -1)
        if self.expert is None:
            return self.add(x[mask.flatten()], owners[mask])
        tokens, x = routed(module, *self.expert, x, args[1].reshape(mask.numel(), -1))
        real = mask.flatten()[tokens]
        return self.add(x[real], owners.flatten()[tokens[real]])


def collect(model, modules, ids, pad_id, batch_size):
    """Fill `modules` {name: (module, Energies)} from one pass over `ids`."""
    state = {}

    def watch(energies):
        return lambda module, args, kwargs: energies.watch(
            module, (*args, *kwargs.values()), **state
        )

    handles = [m.register_forward_pre_hook(watch(e), with_kwargs=True) for m, e in modules.values()]
    try:
        with torch.no_grad():
            for indices, batch in batches(ids, pad_id, batch_size, model.device, TOKENS):
                mask = batch["attention_mask"].bool()
                state.update(
                    mask=mask,
                    owners=torch.tensor(indices, device=model.device)[:, None].expand_as(mask),
                )
                hidden(model, batch, [block_count(model) - 1])
    finally:
        for handle in handles:
            handle.remove()
