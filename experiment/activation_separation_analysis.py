"""Can forget texts be told from retain texts by their activations, and does the intervention change
that?

    uv run experiment/activation_separation_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/activation_separation \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

A text is the mean of its real tokens' residual stream. At each layer (0: embeddings, k: after block
k-1, before the final norm) and for each model: cosine distance of the two centroids; AUC of a
logistic classifier on held-out texts (folds are stretches that keep an entity together where the
data name entities; else the lines next to a held-out stretch are not learned from); variance_ratio,
between-class over within-class variance. The texts are drawn from the files by --seed. Intervals:
95 %, over entities where the data name them (forget.facts.jsonl, or `entity` in JSONL), else over
texts; bootstrap, of the AUC DeLong's. The null_ columns are the same with labels that mean nothing
(every other stretch of each file). length_auc and bow_auc: what text length and token counts alone
tell; layer 0 likewise has seen no context. What they reach is topic, not knowledge.
"""

from typing import Annotated

import typer

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "layer",
    "model",
    "cosine_distance",
    "auc",
    "variance_ratio",
    "cosine_distance_low",
    "cosine_distance_high",
    "auc_low",
    "auc_high",
    "variance_ratio_low",
    "variance_ratio_high",
    "null_cosine_distance",
    "null_auc",
    "null_variance_ratio",
    "length_auc",
    "bow_auc",
    "n_forget",
    "n_retain",
    "folds",
    "seed",
]
BOOTSTRAP = "the bootstrap samples (_low, _high, but not of auc; the texts: by the first seed)"
DRAWS, MEASURES = 400, ("cosine_distance", "variance_ratio")


def separation(x, labels, weights=None):
    """(cosine distance of the centroids, between / within variance), each [draws]; x [n, D],
    weights [draws, n] of texts.
    """
    import torch

    x, weights = (
        x.double(),
        x.new_ones(1, len(x), dtype=torch.float64) if weights is None else weights,
    )
    square, counts, centres, within = x.square().sum(1), [], [], 0.0
    for side in (1, 0):
        w = weights * (labels == side)
        counts.append(w.sum(1))
        centres.append(w @ x / counts[-1][:, None])
        within = within + w @ square - counts[-1] * centres[-1].square().sum(1)
    total = counts[0] + counts[1]
    between = (centres[0] - centres[1]).square().sum(1) * counts[0] * counts[1] / total.square()
    return 1 - torch.cosine_similarity(*centres, dim=1), between * total / within


def resamples(task, draws, seed):
    """[draws, n]: bootstrap counts within each class of a `probes.ProbeTask`, of entities."""
    import torch

    from brittle.maths.intervals import resample

    counts = torch.zeros(draws, len(task.labels), dtype=torch.float64)
    for side in (1, 0):
        places = (task.labels == side).nonzero()[:, 0]
        units = [task.entities[i] for i in places.tolist()] if task.entities else len(places)
        counts[:, places] = resample(units, draws, seed, f"class {side}")
    return counts


def rows(features, task, surface, folds, seeds, device="cpu"):
    """A row a layer, model and seed; `features` {model_a, model_b: [texts, N+1, D]}, forget texts
    first.
    """
    from brittle.maths.intervals import quantiles

    labels, control = task.labels.to(device), task.control.to(device)
    weights = {seed: resamples(task, DRAWS, seed).to(device) for seed in seeds}
    n_forget = int(task.labels.sum())
    known = surface | {
        "n_forget": n_forget,
        "n_retain": len(task.labels) - n_forget,
        "folds": folds,
    }
    for layer in range(next(iter(features.values())).shape[1]):
        for model, of_model in features.items():
            row, x = {"layer": layer, "model": model}, of_model[:, layer].to(device)
            for name, value, chance in zip(
                MEASURES, separation(x, labels), separation(x, control), strict=True
            ):
                row |= {name: float(value), f"null_{name}": float(chance)}
            (auc, _), (null_auc, _) = task.auc(x, device=device)
            row |= dict(zip(("auc", "auc_low", "auc_high"), auc, strict=True)) | {
                "null_auc": null_auc[0]
            }
            for seed in seeds:
                for name, spread in zip(
                    MEASURES, separation(x, labels, weights[seed]), strict=True
                ):
                    ends = quantiles(spread.cpu(), task.units, row[name])
                    row[f"{name}_low"], row[f"{name}_high"] = ends
                yield row | known | {"seed": seed}


# How far the axes go at least: a little more than at right angles, certainty, and twice as much
# variance between the sets as within them. So figures of different comparisons share them.
REACH = {"cosine_distance": 1.2, "auc": 1.0, "variance_ratio": 2.0}


def plot(table, names):
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table)
    fig, axes = figures.figure("Separation of forget and retain texts", names, columns=3)
    for ax, column in zip(axes, REACH, strict=True):
        for model in ("model_a", "model_b"):
            of_model = table[table.model == model]
            figures.line(
                ax,
                of_model.layer,
                of_model[column],
                model,
                low=of_model[f"{column}_low"],
                high=of_model[f"{column}_high"],
            )
            figures.null(
                ax, of_model.layer, of_model[f"null_{column}"], f"null, {model}", colour=model
            )
        if column == "auc":
            figures.null(ax, None, float(table.bow_auc.iloc[0]), "words alone")
        figures.finish(ax, "layer (0: embeddings)", column, reach=REACH[column])
    return fig


@options.spread
def main(
    pair: options.TextPair,
    max_samples: options.MaxSamples = 500,
    max_length: options.TextLength = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Stretches of each file; each is held out once.")
    ] = 5,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Separation of forget and retain activations in two models, layer by layer, against labels
    that mean nothing.
    """
    from brittle.base.tables import of_seed
    from brittle.diagnostics.common import Texts, comparison

    seeds = options.seed_list(seeds, seed, BOOTSTRAP)
    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, seeds) as opened:
        from brittle.diagnostics import probes

        models = {name: opened.load(name, device, dtype) for name in opened.folders}
        ids = opened.encode(models["model_a"].config)
        texts = ids["forget"] + ids["retain"]
        drawn = opened.drawn.values()
        groups = [probes.fold_groups(of, folds) for of in drawn]
        counts, entities = map(len, ids.values()), [of.entities for of in drawn]
        task = probes.ProbeTask(*counts, folds, groups, entities)
        pad = opened.tokenizer.pad_token_id
        features = {
            name: probes.features(model, texts, pad, batch_size, ["mean"])["mean"]
            for name, model in models.items()
        }
        table = list(
            rows(features, task, task.surface(texts), folds, seeds, models["model_a"].device)
        )
        opened.run.figure(plot(of_seed(table, seeds[0]), opened.title), "separation.png")
        opened.run.csv("separation.csv", COLUMNS, table)
    from brittle.report import results

    results.say("8", pair.outdir)


if __name__ == "__main__":
    command.run(main)
