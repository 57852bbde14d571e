"""Do the two models lie in one basin: is there a barrier on the straight line between their
weights?

    uv run experiment/basin_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/basin_analysis \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

nll: mean token NLL (nats) of the model with weights (1 - alpha) W_a + alpha W_b. barrier: nll above
the straight line between the two ends' nll (Frankle et al. 2020); a barrier near 0 at every alpha
says that B is a short walk from A downhill. null_nll: the same step from A in a Gaussian direction,
each tensor's as long as its dW: what a change of that size does where it was not chosen; the mean
over five directions. It is model A's nll, plus what the step changes on the first 32 texts of the
split: ten points on the line in each of five directions take most of the time. The texts are drawn
from the files by --seed, so the first 32 are a sample too. Intervals: 95 %, bootstrap over
entities where the data name them (forget.facts.jsonl, or `entity` in JSONL), else over texts (of
barrier: paired). That of null_nll is a prediction interval: it holds what a further random
direction gives on the same 32 texts.
"""

import json
import math
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "alpha",
    "split",
    "nll",
    "barrier",
    "null_nll",
    "nll_low",
    "nll_high",
    "barrier_low",
    "barrier_high",
    "null_nll_low",
    "null_nll_high",
    "n_texts",
    "n_tokens",
    "seed",
]
DRAWS, DIRECTIONS = 1000, 5
NULL_TEXTS = 32  # texts of each split on which the random directions are measured


def text_nlls(model, ids, pad_id, batch_size):
    """[texts] summed NLL of each text's predicted tokens, float64."""
    import torch

    from brittle.data.batches import batches
    from brittle.diagnostics.common import TOKENS
    from brittle.models.logprobs import sequence_logprobs

    nlls = torch.zeros(len(ids), dtype=torch.float64)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device, TOKENS):
            nlls[indices] = -sequence_logprobs(model, batch).double().cpu()
    return nlls


def lengths(start, end):
    """{name: ||end - start||} of weights {name: tensor}, a few rows at a time: beside two models
    there is little room.
    """

    def squared(w, other):
        pairs = zip(w.split(4096), other.split(4096), strict=True)
        return sum(
            float((x.float() - y.to(x.device).float()).double().square().sum()) for x, y in pairs
        )

    return {name: squared(w, start[name]) ** 0.5 for name, w in end.items()}


def random_end(start, end, far, seed, direction=0):
    """Weights `far` {name: length} from `start`, each tensor in the Gaussian direction of that
    number; they are written over `end`.
    """
    import torch

    from brittle.maths.intervals import generator

    for name, w in end.items():
        draw = generator(seed, f"{name} {direction}", w.device)
        drawn = torch.randn(w.shape, generator=draw, device=w.device)
        drawn.mul_(far[name] / float(drawn.norm().clamp_min(1e-30)))
        w.copy_(drawn.add_(start[name].to(w.device)))
    return end


def walk(model, start, end, alphas, ids, pad_id, batch_size):
    """{split: [alphas, texts]} summed NLLs along the line from `start` to `end`; the model is left
    at the last point.

    The model and `end` are on its device, `start` in the host's memory (pinned for a GPU): two
    models, no third.
    """
    import torch

    sums = {split: [] for split in ids}
    for alpha in alphas:
        with torch.no_grad():
            for name, p in model.named_parameters():  # in float32 inside, and exact at both ends
                torch.lerp(
                    start[name].to(p.device, non_blocking=True), end[name], alpha, out=p.data
                )
        for split, texts in ids.items():
            sums[split].append(text_nlls(model, texts, pad_id, batch_size))
    return {split: torch.stack(values) for split, values in sums.items()}


def rows(alphas, line, nulls, drawn, ids, units, seed):
    """A row an alpha and split, from `walk`'s sums along dW, and those along each null direction.

    Along dW the sums are of all texts, those of `nulls` of the `drawn` ones {split: their numbers}.
    units {split: what
    an interval draws} (`common.Comparison.units`).
    """
    import torch

    from brittle.maths.intervals import count_units, prediction_interval, quantiles, resample

    along = torch.tensor(alphas, dtype=torch.float64)
    for split, texts in ids.items():
        count = torch.tensor([max(0, len(i) - 1) for i in texts], dtype=torch.float64)
        weights = torch.cat(
            [
                torch.ones(1, len(texts), dtype=torch.float64),
                resample(units[split], DRAWS, seed, split),
            ]
        )
        mean = (weights @ line[split].T) / (weights @ count)[:, None]  # [1 + draws, alphas]
        sums = torch.stack([null[split] for null in nulls])  # [directions, alphas, drawn]
        change = (sums - sums[:, :1]).sum(2) / count[list(drawn[split])].sum()
        chance = mean[0, 0] + change
        barrier = mean - torch.lerp(mean[:, :1], mean[:, -1:], along)
        for i, alpha in enumerate(alphas):
            row = {
                "alpha": alpha,
                "split": split,
                "n_texts": len(texts),
                "n_tokens": int(count.sum()),
                "seed": seed,
            }
            for name, values in (("nll", mean), ("barrier", barrier)):
                row[name] = float(values[0, i])
                low, high = quantiles(values[1:, i], count_units(units[split]))
                row |= {f"{name}_low": low, f"{name}_high": high}
            null, low, high = prediction_interval(chance[:, i])
            # an NLL is not negative
            row |= {"null_nll": null, "null_nll_low": max(low, 0.0), "null_nll_high": high}
            yield row


def summary(table):
    """{split: the highest barrier and where, and the NLL at both ends}."""
    highest = {}
    for split in dict.fromkeys(row["split"] for row in table):
        of_split = [row for row in table if row["split"] == split]
        top = max(of_split, key=lambda row: row["barrier"])
        highest[split] = {
            "max_barrier": top["barrier"],
            "alpha": top["alpha"],
            "nll_a": of_split[0]["nll"],
            "nll_b": of_split[-1]["nll"],
        }
    return highest


def plot(table, names, reach=0.0):
    """reach: how far the NLL's axis goes at least."""
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table)
    fig, axes = figures.figure("Loss along the line between the models", names, columns=2)
    for ax, split in zip(axes, ("forget", "retain"), strict=True):
        of_split = table[table.split == split]
        figures.line(
            ax, of_split.alpha, of_split.nll, split, low=of_split.nll_low, high=of_split.nll_high
        )
        figures.null(ax, of_split.alpha, of_split.null_nll, "random directions")
        label, title = "alpha (0: model A, 1: model B)", f"{split} texts"
        figures.finish(ax, label, "nll", integer=False, title=title, reach=reach)
    return fig


@options.spread
def main(
    pair: options.TextPair,
    points: Annotated[
        int, typer.Option(min=2, help="Points on the line, both ends included.")
    ] = 11,
    max_samples: options.MaxSamples = 64,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Loss on forget and retain texts along the straight line from model A to model B, against a
    random direction.
    """
    from brittle.base.tables import of_seed
    from brittle.data.items import subset
    from brittle.diagnostics.common import Texts, comparison

    repeated = "the random directions (null_) and the bootstrap samples (_low, _high)"
    seeds = options.seed_list(seeds, seed, f"{repeated} (the texts: by the first seed)")
    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, seeds) as opened:
        import torch

        from brittle.models.architectures import size

        model = opened.load("model_a", device, dtype)
        other = opened.load("model_b", device, str(model.dtype).removeprefix("torch."))
        end = {name: p.detach() for name, p in other.named_parameters()}
        start = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}
        if model.device.type == "cuda":
            start = {name: w.pin_memory() for name, w in start.items()}
        ids = opened.encode(model.config)
        alphas = [i / (points - 1) for i in range(points)]
        pad, table = opened.tokenizer.pad_token_id, []
        line = walk(model, start, end, alphas, ids, pad, batch_size)
        far = lengths(start, end)
        drawn = {
            split: subset(range(len(texts)), NULL_TEXTS, seeds[0]) for split, texts in ids.items()
        }
        some = {split: [ids[split][i] for i in numbers] for split, numbers in drawn.items()}
        at_a = walk(model, start, end, alphas[:1], some, pad, batch_size)
        for s in seeds:
            nulls = []
            for direction in range(DIRECTIONS):
                there = random_end(start, end, far, s, direction)
                null = walk(model, start, there, alphas[1:], some, pad, batch_size)
                # every direction starts at model A
                nulls.append({split: torch.cat([at_a[split], null[split]]) for split in some})
            table += rows(alphas, line, nulls, drawn, ids, opened.units(), s)
        shown = of_seed(table, seeds[0])
        guessing = math.log(size(model.config, "vocab_size"))  # every token alike
        opened.run.figure(plot(shown, opened.title, guessing), "basin.png")
        opened.run.path("summary.json").write_text(
            json.dumps(summary(shown), indent=1) + "\n", encoding="utf-8"
        )
        opened.run.csv("basin.csv", COLUMNS, table)
    from brittle.report import results

    results.say("basin", pair.outdir)


if __name__ == "__main__":
    command.run(main)
