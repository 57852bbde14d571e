"""Pruning as an attack: an update that lives in few, small or rarely used weights goes with them.

    magnitude   the smallest |W_ij| of a matrix are set to 0
    wanda       in every row the smallest |W_ij| ||x_j||_2, x_j input j over texts
                (Sun et al. 2023, arXiv:2306.11695)

All attention and MLP matrices are pruned, each by the same ratio. The texts are benign ones, so no
attack needs the forget set. Inputs are those of the unpruned model (the publication goes on block
by block with pruned ones).
"""

from dataclasses import dataclass

from brittle.attacks.base import Attack, kept, matrices
from brittle.base.errors import UserError
from brittle.base.knobs import knob

SCHEMES = ("magnitude", "wanda")


def prune(w, ratio, inputs=None):
    """w [..., out, in] with the share `ratio` of its entries 0: of the whole matrix by magnitude,
    or by row and inputs [in].
    """
    import torch

    score = w.abs().float()
    score = score.flatten(-2) if inputs is None else score * inputs.to(score)
    count = int(ratio * score.shape[-1])
    lowest = torch.argsort(score, dim=-1, stable=True)[..., :count]
    pruned = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, lowest, value=1)
    return w.masked_fill(pruned.view(w.shape), 0)


def input_norms(model, ids, pad_id, batch_size=32):
    """{weight name: [in] the 2-norm of each input of its linear module over all real tokens}.

    Raises UserError where a matrix belongs to no linear module (stacked experts).
    """
    import torch

    from brittle.data.batches import batches

    squares, handles, mask = {}, [], None
    wanted = dict(matrices(model))

    def add_to(name):
        def hook(module, args):
            x = args[0].float()
            rows = x.flatten(0, -2)
            if x.shape[:-1] == mask.shape:
                rows = rows[mask.flatten()]
            squares[name] = squares.get(name, 0) + rows.pow(2).sum(0)

        return hook

    for name, module in model.named_modules():
        if f"{name}.weight" in wanted:
            handles.append(module.register_forward_pre_hook(add_to(f"{name}.weight")))
    try:
        with torch.no_grad():
            for _, batch in batches(ids, pad_id, batch_size, model.device):
                mask = batch["attention_mask"].bool()
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    missing = sorted(set(wanted) - set(squares))
    if missing:
        raise UserError(
            f"WANDA needs the inputs of every matrix, and {missing[0]} is no linear module. "
            "Use magnitude."
        )
    return {name: total.sqrt() for name, total in squares.items()}


def prune_model(model, ratio, norms=None):
    """By magnitude, or with `norms` (of `input_norms`) by WANDA."""
    import torch

    with torch.no_grad():
        for name, w in matrices(model):
            w.copy_(prune(w, ratio, None if norms is None else norms[name]))


@dataclass
class Prune(Attack):
    """Every scheme at every ratio."""

    ratio: tuple = knob((0.1, 0.2, 0.4), "Share of the weights to set to 0.")
    scheme: tuple = knob(SCHEMES, "magnitude, wanda.", choices=SCHEMES)
    texts: int = knob(256, "Benign texts for WANDA.", low=1)

    def check(self):
        for ratio in self.ratio:
            if not 0 <= ratio < 1:
                raise UserError(
                    f"--ratio {ratio:g}: between 0 (nothing) and 1 (everything, which is no model)."
                )

    def norms(self, model, tokenizer, material):
        """`input_norms` over benign texts drawn by the seed."""
        import torch

        from brittle.data.examples import encode_rows
        from brittle.models.architectures import context_length

        benign = material.benign()
        drawn = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(benign), generator=drawn)[: self.texts]
        rows = [benign[i] for i in order]
        examples = encode_rows(
            tokenizer, rows, context_length(model.config), self.reading, refuse=False
        )
        return input_norms(model, examples, tokenizer.pad_token_id)

    def run(self, model, tokenizer, material, measure):
        for scheme in self.scheme:
            norms = self.norms(model, tokenizer, material) if scheme == "wanda" else None
            for ratio in self.ratio:
                with kept(model):
                    prune_model(model, ratio, norms)
                    measure(f"{scheme} {ratio:g}", scheme=scheme, ratio=ratio)
