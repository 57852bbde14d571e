"""Does the intervention change the shape of the activation distribution, and only on forget texts?

    uv run experiment/activation_covariance_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/activation_covariance \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

Eigenvalues of the unbiased covariance of the residual stream at each layer (0: embeddings, k: after
block k-1), of tokens and of texts (their token means): `unit`. effective_rank: eigenvalues that
hold 99 % of the sum; spectral_entropy in nats. wasserstein: the 1-Wasserstein distance of the two
models' spectra, each divided by its mean, so that scale does not count (mean |difference| of the
sorted values). selectivity_ratio: wasserstein on forget over retain texts, on both rows of a pair.
null_wasserstein: model A's spectrum on one random half of the texts against the other half, the
mean over five splits that never part an entity: the distance that other texts alone make. (Each
half has half of the texts, so it is larger than between two samples of this size.) The texts are
drawn from the files by --seed. Intervals: 95 %, bootstrap over entities where the data name them
(forget.facts.jsonl, or `entity` in JSONL), else over texts. They hold the sampling error, not the
bias of a spectrum from few texts. An eigenvalue of a resampled covariance C is v^T C v, v the
eigenvector of all texts (exact to first order; an eigenproblem a draw would take hours), and the
resampled distances are scaled to the mean of the measured one (resampling alone makes distances
larger).
"""

import math

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "layer",
    "split",
    "unit",
    "model_a_effective_rank",
    "model_b_effective_rank",
    "model_a_spectral_entropy",
    "model_b_spectral_entropy",
    "wasserstein",
    "wasserstein_low",
    "wasserstein_high",
    "null_wasserstein",
    "selectivity_ratio",
    "selectivity_ratio_low",
    "selectivity_ratio_high",
    "n_texts",
    "n_tokens",
    "seed",
]
DRAWS = 400


def measure(spectra, weights, units, device="cpu"):
    """(columns of one layer, split and unit; wasserstein of each draw).

    spectra {model_a, model_b: as from `collect`}; weights [draws, texts] of `units` drawn.
    """
    from brittle.diagnostics.covariance import resampled, wasserstein
    from brittle.maths.intervals import quantiles
    from brittle.maths.linalg import empirical_rank, entropy_rank

    row = {}
    for model, of in spectra.items():
        s = of["values"].sqrt()  # the functions of singular values square them
        row[f"{model}_effective_rank"] = empirical_rank(s)
        row[f"{model}_spectral_entropy"] = math.log(entropy_rank(s)) if s[0] > 0 else 0.0
    row["wasserstein"] = float(wasserstein(*(of["values"][None] for of in spectra.values())))
    halves = spectra["model_a"]["halves"]  # [splits, 2, D]
    row["null_wasserstein"] = float(wasserstein(halves[:, 0], halves[:, 1]).mean())
    keys = ("energy", "linear", "count")
    draws = wasserstein(
        *(resampled(*(of[key].to(device) for key in keys), weights) for of in spectra.values())
    ).cpu()
    draws *= row["wasserstein"] / float(
        draws.mean().clamp_min(1e-30)
    )  # a resampled text is noise, which moves spectra apart
    row["wasserstein_low"], row["wasserstein_high"] = quantiles(draws, units)
    return row, draws


def rows(collected, ids, units, seed, device="cpu"):
    """A row a layer, split and unit; `collected` {split: {model: as from `collect`}}.

    units {split: what an interval draws} (`common.Comparison.units`).
    """
    from brittle.base.tables import ratio
    from brittle.maths.intervals import count_units, quantiles, resample

    weights = {
        split: resample(drawn, DRAWS, seed, split).float().to(device)
        for split, drawn in units.items()
    }
    counts = {split: count_units(drawn) for split, drawn in units.items()}
    for layer in range(len(collected["forget"]["model_a"]["token"])):
        for unit in ("token", "text"):
            measured = {
                split: measure(
                    {m: of[unit][layer] for m, of in models.items()},
                    weights[split],
                    counts[split],
                    device,
                )
                for split, models in collected.items()
            }
            forget, retain = (measured[split][0]["wasserstein"] for split in ("forget", "retain"))
            ratios = measured["forget"][1] / measured["retain"][1]
            low, high = quantiles(ratios, min(counts.values()))
            for split in collected:
                yield measured[split][0] | {
                    "layer": layer,
                    "split": split,
                    "unit": unit,
                    "selectivity_ratio": ratio(forget, retain),
                    "selectivity_ratio_low": low,
                    "selectivity_ratio_high": high,
                    "n_texts": len(ids[split]),
                    "n_tokens": sum(map(len, ids[split])),
                    "seed": seed,
                }


def plot(table, names):
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS)
    fig, axes = figures.figure("Shape of the activation distribution (tokens)", names, columns=3)
    table = table[table.unit == "token"]
    for split in ("retain", "forget"):
        of_split = table[table.split == split]
        low, high = (of_split[f"wasserstein_{side}"].astype(float) for side in ("low", "high"))
        figures.line(axes[0], of_split.layer, of_split.wasserstein, split, low=low, high=high)
        figures.null(
            axes[0], of_split.layer, of_split.null_wasserstein, f"null, {split}", colour=split
        )
        figures.line(
            axes[1],
            of_split.layer,
            of_split.model_a_effective_rank,
            f"{split}, model_a",
            colour=split,
        )
        figures.line(
            axes[1],
            of_split.layer,
            of_split.model_b_effective_rank,
            f"{split}, model_b",
            colour=split,
            linestyle="--",
        )
    of_split = table[table.split == "forget"]
    low, high = (of_split[f"selectivity_ratio_{side}"].astype(float) for side in ("low", "high"))
    figures.line(
        axes[2],
        of_split.layer,
        of_split.selectivity_ratio.astype(float),
        "forget / retain",
        colour="model_a",
        low=low,
        high=high,
    )
    figures.null(axes[2], None, 1.0, "not selective")
    # two spectra of mean 1 are at most 2 apart; model A's ranks are the same in every comparison
    ranks = 1.25 * table.model_a_effective_rank.max()
    reaches = {"wasserstein": 2.0, "effective_rank": ranks, "selectivity_ratio": 0.0}
    for ax, (label, reach) in zip(axes, reaches.items(), strict=True):
        figures.finish(ax, "layer (0: embeddings)", label, reach=reach)
    figures.as_ratio(axes[2], 0.1, 1000)
    return fig


@options.spread
def main(
    pair: options.TextPair,
    max_samples: options.MaxSamples = 500,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Covariance spectra of two models' activations on forget and retain texts, and how selectively
    they differ.
    """
    from brittle.base.errors import UserError
    from brittle.base.tables import of_seed
    from brittle.diagnostics.common import Texts, comparison

    seeds = options.seed_list(
        seeds, seed, "the bootstrap samples (_low, _high; the texts and halves: by the first seed)"
    )
    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, seeds) as opened:
        from brittle.diagnostics.covariance import PARTS, Streams, collect
        from brittle.maths.intervals import split_groups

        pad, collected = opened.tokenizer.pad_token_id, {"forget": {}, "retain": {}}
        units = opened.units()
        parts = {
            split: split_groups(drawn, PARTS, opened.seed, f"halves of {split}")
            for split, drawn in units.items()
        }
        for name in opened.folders:  # one model after the other: each leaves only its sums
            model = opened.load(name, device, dtype)
            if name == "model_a":
                ids = opened.encode(model.config)
                shortest = min(ids, key=lambda split: len(ids[split]))
                if len(ids[shortest]) < PARTS:
                    raise UserError(
                        f"a covariance needs at least {PARTS} texts; "
                        f"the {shortest} file gives {len(ids[shortest])}."
                    )
            for split, texts in ids.items():
                streams = Streams(model, texts, pad, batch_size)
                collected[split][name] = collect(streams, parts[split], name == "model_a")
        used = model.device
        del model
        table = [row for s in seeds for row in rows(collected, ids, units, s, used)]
        opened.run.figure(plot(of_seed(table, seeds[0]), opened.title), "covariance.png")
        opened.run.csv("covariance.csv", COLUMNS, table)
    from brittle.report import results

    results.say("9", pair.outdir)


if __name__ == "__main__":
    command.run(main)
