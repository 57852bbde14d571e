"""Do forget texts feed the directions that the intervention reads more than retain texts do?

    uv run experiment/row_space_projection_analysis.py --model-a A --model-b B --outdir outputs/A__to__B/row_space_projection \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

For each MLP matrix: the energy of its inputs x (model A, real tokens) in the top-k right singular directions of dW, over all
of it: projection_ratio = sum |V_k^T x|^2 / sum |x|^2. null_projection_ratio is that of a random subspace, k / inputs;
null_W_projection_ratio that of W's own top-k directions, which any input of the layer feeds. selectivity_ratio: forget over
retain; null_selectivity_ratio: one half of the retain texts over the other. Intervals: 95 %, bootstrap over texts. k falls to
the rank of dW where that is lower; a matrix that did not change has k 0 and zeros.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brittle import cli
from brittle.errors import UserError

COLUMNS = ["name", "layer", "split", "k", "rank", "projection_ratio", "projection_ratio_low", "projection_ratio_high",
           "null_projection_ratio", "null_W_projection_ratio", "selectivity_ratio", "selectivity_ratio_low",
           "selectivity_ratio_high", "null_selectivity_ratio", "null_selectivity_ratio_low", "null_selectivity_ratio_high",
           "n_texts", "n_tokens", "seed"]  # fmt: skip
DRAWS = 1000


def owner(model, name):
    """The module whose input the matrix `name` multiplies, or None: the down-projections of stacked experts have none."""
    path = name.split("[")[0].removesuffix(".weight")
    for full in (path, f"{model.base_model_prefix}.{path}"):
        try:
            found = model.get_submodule(full)
        except AttributeError:
            continue
        if any(True for _ in found.parameters(recurse=False)):
            return found
    stack, _, matrix = path.partition(".experts.")
    if matrix and "down" not in matrix and "w2" not in matrix:
        for full in (f"{stack}.experts", f"{model.base_model_prefix}.{stack}.experts"):
            try:
                return model.get_submodule(full)
            except AttributeError:
                continue
    return None


def directions(pairs, k_max, device):
    """Yield (name, {rank of dW, V [n, k] of dW, W_V [n, k] of W_a}); only the rank where it is 0, None for NaN or Inf."""
    import torch

    from brittle.linalg import rank, svd

    for name, w_a, w_b in pairs:
        if not (torch.isfinite(w_a).all() and torch.isfinite(w_b).all()):
            yield name, None
            continue
        dw = w_b.double() - w_a.double()
        if not dw.any():
            yield name, {"rank": 0}
            continue
        (_, s, v), (_, _, base) = svd(dw, k_max), svd(w_a, k_max)
        yield name, {"rank": rank(s), "V": v.to(device, torch.float32), "W_V": base.to(device, torch.float32)}


class Energies:
    """Per text: energy of one module's inputs in each direction of dW, of W, and in all; sums, float64 [texts, 2 k + 1]."""

    def __init__(self, found, texts):
        import torch

        self.found, self.k = found, found["V"].shape[1]
        self.sums = torch.zeros(texts, 2 * self.k + 1, dtype=torch.float64, device=found["V"].device)

    def add(self, x, mask, indices):
        """Inputs x [B, T, n] of texts `indices` [B]; mask [B, T]."""
        import torch

        x = x.view(*mask.shape, -1)[mask.bool()].float()
        rows = indices[:, None].expand_as(mask)[mask.bool()]
        found = self.found
        parts = [(x @ found["V"]).square(), (x @ found["W_V"]).square(), x.square().sum(1, keepdim=True)]
        self.sums.index_add_(0, rows, torch.cat(parts, 1).double())


def collect(model, modules, ids, pad_id, batch_size):
    """Fill `modules` {name: (module, Energies)} from one pass over `ids`."""
    import torch

    from brittle.activations import hidden
    from brittle.text import batches

    state = {}

    def watch(energies):
        return lambda _module, args, kwargs: energies.add(args[0] if args else next(iter(kwargs.values())), **state)

    handles = [m.register_forward_pre_hook(watch(e), with_kwargs=True) for m, e in modules.values()]
    try:
        with torch.no_grad():
            for indices, batch in batches(ids, pad_id, batch_size, model.device):
                state.update(mask=batch["attention_mask"], indices=torch.tensor(indices, device=model.device))
                hidden(model, batch, [model.config.num_hidden_layers - 1])
    finally:
        for handle in handles:
            handle.remove()


def rows(name, sums, found, ks, ids, seed):
    """Rows of one matrix; sums {split: [texts, 2 k + 1]}, found as from `directions`."""
    from brittle.stats import quantiles, ratio_of_shares, resample
    from brittle.weights import layer_of

    k_max, size = found["V"].shape[1], found["V"].shape[0]
    for k in sorted({min(k, found["rank"], k_max) for k in ks}):
        part = {split: s[:, :k].sum(1) for split, s in sums.items()}
        whole = {split: s[:, 2 * k_max] for split, s in sums.items()}
        # the bootstrap samples of each side are named, so that forget and retain are drawn independently
        selective = ratio_of_shares(part["forget"], whole["forget"], part["retain"], whole["retain"], DRAWS, seed, "selectivity")
        half = [x["retain"][i::2] for i in (0, 1) for x in (part, whole)]
        chance = ratio_of_shares(*half, DRAWS, seed, "halves")
        for split, s in sums.items():
            counts = resample(len(s), DRAWS, seed, split)
            low, high = quantiles((counts @ part[split]) / (counts @ whole[split]))
            yield {
                "name": name, "layer": layer_of(name), "split": split, "k": k, "rank": found["rank"],
                "projection_ratio": float(part[split].sum() / whole[split].sum()), "projection_ratio_low": low,
                "projection_ratio_high": high, "null_projection_ratio": k / size,
                "null_W_projection_ratio": float(s[:, k_max : k_max + k].sum() / whole[split].sum()),
                "selectivity_ratio": selective[0], "selectivity_ratio_low": selective[1], "selectivity_ratio_high": selective[2],
                "null_selectivity_ratio": chance[0], "null_selectivity_ratio_low": chance[1],
                "null_selectivity_ratio_high": chance[2],
                "n_texts": len(s), "n_tokens": sum(map(len, ids[split])), "seed": seed,
            }  # fmt: skip


def still_rows(name, ids, seed, known):
    """Rows of a matrix that did not change (all zero), or that holds NaN (empty)."""
    from brittle.weights import layer_of

    for split in ids:
        measured = dict.fromkeys(COLUMNS[3:-3], 0.0) | {"k": 0, "rank": 0} if known else dict.fromkeys(COLUMNS[3:-3])
        counts = {"n_texts": len(ids[split]), "n_tokens": sum(map(len, ids[split])), "seed": seed}
        yield {"name": name, "layer": layer_of(name), "split": split} | measured | counts


def plot(table, names, k):
    """projection_ratio over its null, and selectivity, over blocks: means over a block's matrices at the largest k."""
    import pandas as pd

    from brittle import plots

    table = pd.DataFrame(table, columns=COLUMNS)
    table = table[table.k == table.groupby("name").k.transform(lambda v: v[v <= k].max())]
    table["over_null"] = table.projection_ratio.astype(float) / table.null_projection_ratio.astype(float).where(lambda v: v > 0)
    fig, axes = plots.figure(f"MLP inputs in the top {k} directions of dW", names, columns=2)
    for split in ("retain", "forget"):
        mean = table[table.split == split].groupby("layer").over_null.mean()
        plots.line(axes[0], mean.index, mean, split)
    plots.null(axes[0], None, 1.0, "random subspace")
    numbers = table[table.split == "forget"].set_index("layer")
    columns = [f"selectivity_ratio{end}" for end in ("", "_low", "_high")] + ["null_selectivity_ratio"]
    mean = numbers[columns].astype(float).groupby("layer").mean()
    plots.line(
        axes[1], mean.index, mean.iloc[:, 0], "forget / retain", colour="model_a", low=mean.iloc[:, 1], high=mean.iloc[:, 2]
    )
    plots.null(axes[1], mean.index, mean.iloc[:, 3], "retain / retain")
    plots.finish(axes[0], "layer", "projection_ratio / null")
    plots.finish(axes[1], "layer", "selectivity_ratio")
    return fig


def main(
    model_a: cli.ModelA,
    model_b: cli.ModelB,
    outdir: cli.Outdir,
    forget: cli.ForgetText = Path("data/mini/forget.txt"),
    retain: cli.RetainText = Path("data/mini/retain.txt"),
    k: Annotated[str, typer.Option("--k", help="Numbers of directions, comma-separated.")] = "1,5,20",
    max_samples: cli.MaxSamples = 500,
    max_length: cli.TextLength = None,
    batch_size: cli.BatchSize = 32,
    device: cli.Device = "auto",
    dtype: cli.Dtype = "auto",
    seed: cli.Seed = 0,
):
    """Projection of model A's MLP inputs onto the directions that dW reads, against random directions."""
    from brittle import diagnostics, models, plots, results, weights

    if not all(part.strip().isdigit() and int(part) for part in k.split(",")):
        raise UserError(f"--k {k}: numbers from 1 on, separated by commas, such as 1,5,20.")
    ks = [int(part) for part in k.split(",")]
    folders = {"model_a": models.model_folder(model_a), "model_b": models.model_folder(model_b)}
    with results.Run(outdir, inputs=[forget, retain], models=folders, seed=seed) as run:
        models.check_pair(*folders.values())
        model, tokenizer = models.load_model(folders["model_a"], device, dtype), models.load_tokenizer(folders["model_a"])
        limit = diagnostics.length_limit(max_length, model.config)
        ids = diagnostics.encode_splits(tokenizer, {"forget": forget, "retain": retain}, max_samples, limit)

        def keep(name):
            return weights.group_of(name) == "mlp" and weights.layer_of(name) >= 0

        pairs = weights.matrix_pairs(*folders.values(), model.device, keep)
        found, table, skipped = dict(directions(pairs, max(ks), model.device)), [], []
        sums = {}
        measured = {n: f for n, f in found.items() if f and "V" in f}
        for split, texts in ids.items():
            modules = {n: (owner(model, n), Energies(f, len(texts))) for n, f in measured.items()}
            skipped = [n for n, (module, _) in modules.items() if module is None]
            modules = {n: m for n, m in modules.items() if m[0] is not None}
            collect(model, modules, texts, tokenizer.pad_token_id, batch_size)
            for n, (_, energies) in modules.items():
                sums.setdefault(n, {})[split] = energies.sums.cpu()
        for name, f in found.items():
            if name in sums:
                table += rows(name, sums[name], f, ks, ids, seed)
            elif name not in skipped:
                table += still_rows(name, ids, seed, known=f is not None)
        run.settings = {"without_input": skipped}
        run.figure(plot(table, plots.pair(model_a, model_b), max(ks)), "projection.png")
        run.csv("projection.csv", COLUMNS, table)
    print(f"{outdir}/projection.csv: {len(table)} rows")
    if skipped:
        print(f"note: the input of {skipped[0]} ({len(skipped)} such matrices) is inside its experts; no row.", file=sys.stderr)
    broken = [n for n, f in found.items() if f is None]
    if broken:
        raise UserError(f"{broken[0]} holds NaN or Inf ({len(broken)} such matrices); their values are empty.")


if __name__ == "__main__":
    cli.run(main)
