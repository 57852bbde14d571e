"""Do forget texts feed the directions that the intervention reads more than retain texts do?

    uv run experiment/row_space_projection_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/row_space_projection \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

For each MLP matrix: the energy of its inputs x (model A, real tokens) in the top-k right singular
directions of dW, over all of it: projection_ratio = sum |V_k^T x|^2 / sum |x|^2.
null_projection_ratio is that of a random subspace, k / inputs; null_W_projection_ratio that of W's
own top-k directions, which any input of the layer feeds. selectivity_ratio: forget over retain;
null_selectivity_ratio: one random half of the retain texts over the other, the mean and the 95 %
range over 200 splits that never part an entity. The texts are drawn from the files by --seed.
Intervals: 95 %, bootstrap over entities where the data name them (forget.facts.jsonl, or `entity`
in JSONL), else over texts. k falls to the rank of dW where that is lower; a matrix that did not
change has k 0 and zeros. n_tokens: those that reached the matrix (of an expert's, the tokens that
are routed to it).
"""

import sys
from typing import Annotated, NamedTuple

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "name",
    "layer",
    "split",
    "k",
    "rank",
    "projection_ratio",
    "projection_ratio_low",
    "projection_ratio_high",
    "null_projection_ratio",
    "null_W_projection_ratio",
    "selectivity_ratio",
    "selectivity_ratio_low",
    "selectivity_ratio_high",
    "null_selectivity_ratio",
    "null_selectivity_ratio_low",
    "null_selectivity_ratio_high",
    "n_texts",
    "n_tokens",
    "seed",
]
DRAWS, SPLITS = 1000, 200


def directions(pairs, k_max, device):
    """Yield (name, {rank of dW, V [n, k] of dW, W_V [n, k] of W_a}); only the rank where it is 0,
    None for NaN or Inf.
    """
    import torch

    from brittle.maths.linalg import change_spectrum, change_svd, finite, rank, svd

    for name, w_a, w_b in pairs:
        if not finite(w_a, w_b):
            yield name, None
            continue
        rank_of_change = rank(change_spectrum(w_a, w_b))
        if not rank_of_change:
            yield name, {"rank": 0}
            continue
        v = change_svd(w_a, w_b, k_max)[2].to(device, torch.float32)
        base = svd(w_a, v.shape[1])[2].to(device, torch.float32)
        yield name, {"rank": rank_of_change, "V": v, "W_V": base}


class Read(NamedTuple):
    """What one matrix read: energies {split: [texts, 2 k + 1]} and tokens {split: how many}."""

    sums: dict
    tokens: dict


def selectivity(samples, seed):
    """((ratio, low, high), (null, low, high)) of `intervals.Sample`s {forget, retain}.

    Nothing is known of an expert that one of the sides never reaches.
    """
    from brittle.maths.intervals import count_units, quantiles, ratio_of_shares, ratios_of_halves

    if not all(float(sample.whole.sum()) for sample in samples.values()):
        return (None,) * 3, (None,) * 3
    measured = ratio_of_shares(samples["forget"], samples["retain"], DRAWS, seed, "selectivity")
    null = ratios_of_halves(samples["retain"], SPLITS, seed, "halves")
    null = null[null.isfinite()]
    if not len(null):
        return measured, (None,) * 3
    low, high = quantiles(null, count_units(samples["retain"].units))
    return measured, (float(null.mean()), low, high)


def rows(name, read, change, ks, units, seed):
    """Rows of one matrix; read as `Read`, change as from `directions`.

    units {split: what an interval draws} (`common.Comparison.units`).
    """
    from brittle.base.tables import ratio
    from brittle.maths.intervals import Sample, count_units, quantiles, resample
    from brittle.models.architectures import layer_of

    k_max, size = change["V"].shape[1], change["V"].shape[0]
    for k in sorted({min(k, change["rank"], k_max) for k in ks}):
        samples = {
            split: Sample(s[:, :k].sum(1), s[:, 2 * k_max], units[split])
            for split, s in read.sums.items()
        }
        selective, chance = selectivity(samples, seed)
        for split, s in read.sums.items():
            sample = samples[split]
            counts = resample(units[split], DRAWS, seed, split)
            drawn = (counts @ sample.inside) / (counts @ sample.whole)
            low, high = quantiles(drawn, count_units(units[split]))
            share, of_w = (
                ratio(float(x.sum()), float(sample.whole.sum())) if read.tokens[split] else None
                for x in (sample.inside, s[:, k_max : k_max + k])
            )
            yield {
                "name": name,
                "layer": layer_of(name),
                "split": split,
                "k": k,
                "rank": change["rank"],
                "projection_ratio": share,
                "projection_ratio_low": low,
                "projection_ratio_high": high,
                "null_projection_ratio": k / size,
                "null_W_projection_ratio": of_w,
                "selectivity_ratio": selective[0],
                "selectivity_ratio_low": selective[1],
                "selectivity_ratio_high": selective[2],
                "null_selectivity_ratio": chance[0],
                "null_selectivity_ratio_low": chance[1],
                "null_selectivity_ratio_high": chance[2],
                "n_texts": len(s),
                "n_tokens": read.tokens[split],
                "seed": seed,
            }


def still_rows(name, ids, seed, known):
    """Rows of a matrix that did not change (all zero), or that holds NaN (empty)."""
    from brittle.models.architectures import layer_of

    for split in ids:
        measured = (
            dict.fromkeys(COLUMNS[3:-3], 0.0) | {"k": 0, "rank": 0}
            if known
            else dict.fromkeys(COLUMNS[3:-3])
        )
        counts = {"n_texts": len(ids[split]), "n_tokens": sum(map(len, ids[split])), "seed": seed}
        yield {"name": name, "layer": layer_of(name), "split": split} | measured | counts


def plot(table, names, k):
    """projection_ratio over its null, and selectivity, over blocks: means over a block's matrices
    at the largest k.
    """
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS)
    table = table[table.k == table.groupby("name").k.transform(lambda v: v[v <= k].max())]
    table["over_null"] = table.projection_ratio.astype(float) / table.null_projection_ratio.astype(
        float
    ).where(lambda v: v > 0)
    fig, axes = figures.figure(f"MLP inputs in the top {k} directions of dW", names, columns=2)
    for split in ("retain", "forget"):
        mean = table[table.split == split].groupby("layer").over_null.mean()
        figures.line(axes[0], mean.index, mean, split)
    figures.null(axes[0], None, 1.0, "random subspace")
    numbers = table[table.split == "forget"].set_index("layer")
    columns = [f"selectivity_ratio{end}" for end in ("", "_low", "_high")] + [
        "null_selectivity_ratio"
    ]
    mean = numbers[columns].astype(float).groupby("layer").mean()
    figures.line(
        axes[1],
        mean.index,
        mean.iloc[:, 0],
        "forget / retain",
        colour="model_a",
        low=mean.iloc[:, 1],
        high=mean.iloc[:, 2],
    )
    figures.null(axes[1], mean.index, mean.iloc[:, 3], "retain / retain")
    figures.finish(axes[0], "layer", "projection_ratio / null")
    figures.finish(axes[1], "layer", "selectivity_ratio")
    figures.as_ratio(axes[0], 0.1, 10)
    figures.as_ratio(axes[1], 0.1, 10)
    return fig


@options.spread
def main(
    pair: options.TextPair,
    k: Annotated[
        str, typer.Option("--k", help="Numbers of directions, comma-separated.")
    ] = "1,5,20",
    max_samples: options.MaxSamples = 500,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Projection of model A's MLP inputs onto the directions that dW reads, against random
    directions.
    """
    from brittle.base.tables import of_seed
    from brittle.diagnostics.common import Texts, comparison
    from brittle.models import architectures

    numbers = listed(k)
    if not numbers or not all(text.isdecimal() and int(text) for text in numbers):
        raise UserError(f"--k {k}: numbers from 1 on, separated by commas, such as 1,5,20.")
    seeds = options.seed_list(
        seeds, seed, "the bootstrap samples and halves (_low, _high; the texts: by the first seed)"
    )
    ks = [int(text) for text in numbers]
    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, seeds) as opened:
        from brittle.diagnostics.inputs import Energies, collect, owner

        model = opened.load("model_a", device, dtype)
        ids, pad = opened.encode(model.config), opened.tokenizer.pad_token_id

        def keep(name):
            return architectures.group_of(name) == "mlp" and architectures.layer_of(name) >= 0

        pairs = opened.matrices(model.device, keep)
        changes = dict(directions(pairs, max(ks), model.device))
        moved = [name for name, change in changes.items() if change and "V" in change]
        readers = {name: owner(model, name) for name in moved}
        skipped = [name for name in moved if readers[name] is None]
        sums = {name: {} for name in moved if name not in skipped}
        tokens = {name: {} for name in sums}
        for split, texts in ids.items():
            modules = {}
            for name in sums:
                module, expert = readers[name]
                modules[name] = module, Energies(changes[name], len(texts), expert)
            collect(model, modules, texts, pad, batch_size)
            for name, (_, energies) in modules.items():
                sums[name][split] = energies.sums.cpu()
                tokens[name][split] = energies.tokens
        table = []
        for s in seeds:
            for name, change in changes.items():
                if name in sums:
                    read = Read(sums[name], tokens[name])
                    table += rows(name, read, change, ks, opened.units(), s)
                elif name not in skipped:
                    table += still_rows(name, ids, s, known=change is not None)
        opened.run.settings |= {"without_input": skipped}
        shown = of_seed(table, seeds[0])
        opened.run.figure(plot(shown, opened.title, max(ks)), "projection.png")
        opened.run.csv("projection.csv", COLUMNS, table)
    from brittle.report import results

    results.say("11", pair.outdir)
    if skipped:
        print(
            f"note: no module reads {skipped[0]} alone ({len(skipped)} such matrices); no row.",
            file=sys.stderr,
        )
    broken = [name for name, change in changes.items() if change is None]
    if broken:
        raise UserError(
            f"{broken[0]} holds NaN or Inf ({len(broken)} such matrices); their values are empty."
        )


if __name__ == "__main__":
    command.run(main)
