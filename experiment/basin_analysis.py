"""Do the two models lie in one basin: is there a barrier on the straight line between their weights?

    uv run experiment/basin_analysis.py --model-a A --model-b B --outdir outputs/A__to__B/basin_analysis \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

nll: mean token NLL (nats) of the model with weights (1 - alpha) W_a + alpha W_b. barrier: nll above the straight line between
the two ends' nll (Frankle et al. 2020); a barrier near 0 at every alpha says that B is a short walk from A downhill.
null_nll: the same step from A in a Gaussian direction, each tensor's as long as its dW: what a change of that size does where
it was not chosen. Intervals: 95 %, bootstrap over texts (of barrier: paired).
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from brittle import cli

COLUMNS = ["alpha", "split", "nll", "barrier", "null_nll", "nll_low", "nll_high", "barrier_low", "barrier_high", "null_nll_low",
           "null_nll_high", "n_texts", "n_tokens", "seed"]  # fmt: skip
DRAWS = 1000


def text_nlls(model, ids, pad_id, batch_size):
    """[texts] summed NLL of each text's predicted tokens, float64."""
    import torch

    from brittle.losses import sequence_logprobs
    from brittle.text import batches

    found = torch.zeros(len(ids), dtype=torch.float64)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, batch_size, model.device):
            found[indices] = -sequence_logprobs(model, batch).double().cpu()
    return found


def random_end(start, end, seed, device="cpu"):
    """Weights {name: tensor} as far from `start` as `end` is, tensor by tensor, in Gaussian directions."""
    import torch

    from brittle.stats import generator

    made = {}
    for name, w in start.items():
        w = w.to(device, torch.float32)
        drawn = torch.randn(w.shape, generator=generator(seed, name, device), device=device)
        length = torch.linalg.vector_norm(end[name].to(w) - w)
        made[name] = (w + drawn * (length / drawn.norm().clamp_min(1e-30))).to("cpu", start[name].dtype)
    return made


def walk(model, start, end, alphas, ids, pad_id, batch_size):
    """{split: [alphas, texts]} summed NLLs along the line from `start` to `end`; the model is left at the last point.

    Only the model itself is on its device; the two ends stay in host memory.
    """
    import torch

    found = {split: [] for split in ids}
    for alpha in alphas:
        with torch.no_grad():
            for name, p in model.named_parameters():
                ends = (side[name].to(p.device).float() for side in (start, end))
                p.copy_(torch.lerp(*ends, alpha))  # exact at both ends
        for split, texts in ids.items():
            found[split].append(text_nlls(model, texts, pad_id, batch_size))
    return {split: torch.stack(values) for split, values in found.items()}


def rows(alphas, line, null, ids, seed):
    """A row an alpha and split from `walk`'s sums along dW and along the null."""
    import torch

    from brittle.stats import quantiles, resample

    along = torch.tensor(alphas, dtype=torch.float64)
    for split, texts in ids.items():
        count = torch.tensor([max(0, len(i) - 1) for i in texts], dtype=torch.float64)
        weights = torch.cat([torch.ones(1, len(texts), dtype=torch.float64), resample(len(texts), DRAWS, seed, split)])
        mean, chance = ((weights @ sums[split].T) / (weights @ count)[:, None] for sums in (line, null))  # [1 + draws, alphas]
        barrier = mean - torch.lerp(mean[:, :1], mean[:, -1:], along)
        for i, alpha in enumerate(alphas):
            row = {"alpha": alpha, "split": split, "n_texts": len(texts), "n_tokens": int(count.sum()), "seed": seed}
            for name, values in (("nll", mean), ("barrier", barrier), ("null_nll", chance)):
                row[name] = float(values[0, i])
                row[f"{name}_low"], row[f"{name}_high"] = quantiles(values[1:, i])
            yield row


def summary(table):
    """{split: the highest barrier and where, and the NLL at both ends}."""
    found = {}
    for split in dict.fromkeys(row["split"] for row in table):
        part = [row for row in table if row["split"] == split]
        top = max(part, key=lambda row: row["barrier"])
        found[split] = {"max_barrier": top["barrier"], "alpha": top["alpha"], "nll_a": part[0]["nll"], "nll_b": part[-1]["nll"]}
    return found


def plot(table, names):
    import pandas as pd

    from brittle import plots

    table = pd.DataFrame(table)
    fig, axes = plots.figure("Loss along the line between the models", names, columns=2)
    for ax, split in zip(axes, ("forget", "retain"), strict=True):
        part = table[table.split == split]
        plots.line(ax, part.alpha, part.nll, split, low=part.nll_low, high=part.nll_high)
        plots.null(ax, part.alpha, part.null_nll, "random direction")
        plots.finish(ax, "alpha (0: model A, 1: model B)", "nll", integer=False, title=f"{split} texts")
    return fig


def main(
    model_a: cli.ModelA,
    model_b: cli.ModelB,
    outdir: cli.Outdir,
    forget: cli.ForgetText = Path("data/mini/forget.txt"),
    retain: cli.RetainText = Path("data/mini/retain.txt"),
    points: Annotated[int, typer.Option(min=2, help="Points on the line, both ends included.")] = 11,
    max_samples: cli.MaxSamples = 128,
    max_length: cli.TextLength = None,
    batch_size: cli.BatchSize = 64,
    device: cli.Device = "auto",
    dtype: cli.Dtype = "auto",
    seed: cli.Seed = 0,
):
    """Loss on forget and retain texts along the straight line from model A to model B, against a random direction."""
    from brittle import diagnostics, models, plots, results

    folders = {"model_a": models.model_folder(model_a), "model_b": models.model_folder(model_b)}
    with results.Run(outdir, inputs=[forget, retain], models=folders, seed=seed) as run:
        models.check_pair(*folders.values())
        model, tokenizer = models.load_model(folders["model_a"], device, dtype), models.load_tokenizer(folders["model_a"])
        start = {name: p.detach().clone().cpu() for name, p in model.named_parameters()}
        other = models.load_model(folders["model_b"], "cpu", str(model.dtype).removeprefix("torch."))
        end = {name: p.detach() for name, p in other.named_parameters()}
        limit = diagnostics.length_limit(max_length, model.config)
        ids = diagnostics.encode_splits(tokenizer, {"forget": forget, "retain": retain}, max_samples, limit)
        alphas = [i / (points - 1) for i in range(points)]
        walks = [walk(model, start, to, alphas, ids, tokenizer.pad_token_id, batch_size)
                 for to in (end, random_end(start, end, seed, model.device))]  # fmt: skip
        table = list(rows(alphas, *walks, ids, seed))
        run.figure(plot(table, plots.pair(model_a, model_b)), "basin.png")
        run.path("summary.json").write_text(json.dumps(summary(table), indent=1) + "\n", encoding="utf-8")
        run.csv("basin.csv", COLUMNS, table)
    print(f"{outdir}/basin.csv: {len(table)} rows")


if __name__ == "__main__":
    cli.run(main)
