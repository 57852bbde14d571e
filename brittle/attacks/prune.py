"""Pruning as an attack: an update that lives in few, small or rarely used weights goes with them.

    magnitude   the smallest |W_ij| of a matrix are set to 0
    wanda       in every row the smallest |W_ij| ||x_j||_2, x_j input j over texts (Sun et al. 2023, arXiv:2306.11695)

All attention and MLP matrices, each by the same ratio. The texts are benign ones, so no attack needs the forget set. Inputs
are those of the unpruned model (the publication goes on block by block with pruned ones).
"""

from dataclasses import dataclass

import torch

from brittle.attacks.base import Attack, kept, matrices
from brittle.base.errors import UserError
from brittle.data.batches import batches, encode
from brittle.models.architectures import context_length

SCHEMES = ("magnitude", "wanda")


def check(ratio):
    if not 0 <= ratio < 1:
        raise UserError(
            f"--ratio {ratio}: between 0 (nothing) and 1 (everything, which is no model)."
        )


def prune(w, ratio, inputs=None):
    """w [..., out, in] with the share `ratio` of its entries 0: of the whole matrix by magnitude, or by row and inputs [in]."""
    score = w.abs().float()
    score = score.flatten(-2) if inputs is None else score * inputs.to(score)
    count = int(ratio * score.shape[-1])
    lowest = torch.argsort(score, dim=-1, stable=True)[..., :count]
    return w.masked_fill(
        torch.zeros_like(score, dtype=torch.bool).scatter_(-1, lowest, True).view(w.shape), 0
    )


@torch.no_grad()
def input_norms(model, ids, pad_id, batch_size=32):
    """{weight name: [in] the 2-norm of each input of its linear module over all real tokens}."""
    norms, handles, mask = {}, [], None
    wanted = dict(matrices(model))

    def add(name):
        def hook(module, args):
            x = args[0].float()
            total = (
                (
                    x.flatten(0, -2)[mask.flatten()]
                    if x.shape[:-1] == mask.shape
                    else x.flatten(0, -2)
                )
                .pow(2)
                .sum(0)
            )
            norms[name] = norms.get(name, 0) + total

        return hook

    for name, module in model.named_modules():
        if f"{name}.weight" in wanted:
            handles.append(module.register_forward_pre_hook(add(f"{name}.weight")))
    try:
        for _, batch in batches(ids, pad_id, batch_size, model.device):
            mask = batch["attention_mask"].bool()
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    missing = sorted(set(wanted) - set(norms))
    if missing:
        raise UserError(
            f"WANDA needs the inputs of every matrix, and {missing[0]} is no linear module. Use magnitude."
        )
    return {name: total.sqrt() for name, total in norms.items()}


@torch.no_grad()
def prune_model(model, ratio, norms=None):
    """By magnitude, or with `norms` (of `input_norms`) by WANDA."""
    for name, w in matrices(model):
        w.copy_(prune(w, ratio, None if norms is None else norms[name]))


@dataclass
class Prune(Attack):
    ratios: tuple = (0.1, 0.2, 0.4)
    schemes: tuple = SCHEMES
    texts: int = 256

    def run(self, model, tokenizer, material, measure):
        for scheme in self.schemes:
            norms = None
            if scheme == "wanda":
                order = torch.randperm(
                    len(lines := material.benign()),
                    generator=torch.Generator().manual_seed(self.seed),
                )
                ids = encode(
                    tokenizer,
                    [lines[i] for i in order[: self.texts]],
                    context_length(model.config),
                    "texts",
                )
                norms = input_norms(model, ids, tokenizer.pad_token_id)
            for ratio in self.ratios:
                check(ratio)
                with kept(model):
                    prune_model(model, ratio, norms)
                    measure(f"{scheme} {ratio:g}", scheme=scheme, ratio=ratio)
