"""At which layer does the model know the answer?

    uv run experiment/layerwise_wmdp_accuracy.py --model M --outdir outputs/M/wmdp_logit_lens \
        --lens logit --data data/mini

Multiple-choice accuracy (summed log-probability of each choice; accuracy_norm: over its characters)
read from every layer of the residual stream (0: embeddings, k: after block k-1) by
  logit        the model's own final norm and unembedding
  tuned        the same after an affine map of that layer, identity at the start, fitted to the
               final logits (KL) on --train texts
  vocab_probe  an affine map straight to the vocabulary, fitted likewise
The fitted lenses see retain texts only, so they learn neither forget facts nor how a model hides
them (nor, for vocab_probe, words that only forget texts use). At the last layer every lens is the
model. chance is the null: the mean of 1 / choices. kl_to_final: mean KL(model || lens) at the
choices' tokens, in nats. Intervals: 95 %; the questions of one entity (else fact) are not
independent, and count for fewer by their design effect (brittle/maths/intervals.py).
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "layer",
    "split",
    "accuracy",
    "delta_from_final",
    "n_correct",
    "n_questions",
    "accuracy_low",
    "accuracy_high",
    "accuracy_norm",
    "chance",
    "kl_to_final",
    "lens",
    "seed",
]


def lens_logprobs(model, lenses, pairs, pad_id, batch_size):
    """(summed log-probability [N+1, pairs] of each pair's tokens from `start` on, KL to the final
    layer [N+1]) by one pass.
    """
    import torch

    from brittle.diagnostics.common import TOKENS
    from brittle.metrics.mcq import passes
    from brittle.models.hooks import residual_stream
    from brittle.models.logprobs import kl_rows

    sums = torch.zeros(len(lenses), len(pairs), dtype=torch.float64)
    divergence, count = torch.zeros(len(lenses), dtype=torch.float64), 0
    with torch.no_grad():
        for batch, (row, position), (pair, place, token) in passes(
            model, pairs, pad_id, batch_size, TOKENS
        ):
            streams = [h[row, position] for h in residual_stream(model, batch)]
            final = None
            for layer in reversed(range(len(lenses))):
                logprobs = torch.log_softmax(lenses[layer](streams[layer]), -1)
                final = logprobs if final is None else final
                sums[layer].index_add_(0, pair, logprobs[place, token].double().cpu())
                divergence[layer] += float(kl_rows(final, logprobs).double()[place].sum())
            count += len(pair)
    return sums, (divergence / max(1, count)).clamp_min(0)


def correct(sums, items, normalise=False):
    """[items] 1 where the likeliest choice is the answer, else 0; sums [pairs] flat over items and
    choices.
    """
    from brittle.metrics import mcq

    scores = mcq.split_by_item(sums.tolist(), items)
    return [outcome.right for outcome in mcq.grade(scores, items, normalise=normalise)]


def rows(split, sums, divergence, items, lens, seed):
    """A row a layer for one split."""
    from brittle.data.items import groups_of
    from brittle.maths.intervals import share
    from brittle.metrics import mcq

    n, chance = len(items), mcq.chance(items)
    entities = groups_of(items)
    every = [correct(s, items) for s in sums]
    right = [sum(outcomes) for outcomes in every]
    for layer, count in enumerate(right):
        accuracy, low, high = share(every[layer], entities)
        yield {
            "layer": layer,
            "split": split,
            "accuracy": accuracy,
            "delta_from_final": (count - right[-1]) / n,
            "n_correct": count,
            "n_questions": n,
            "accuracy_low": low,
            "accuracy_high": high,
            "accuracy_norm": sum(correct(sums[layer], items, normalise=True)) / n,
            "chance": chance,
            "kl_to_final": float(divergence[layer]),
            "lens": lens,
            "seed": seed,
        }


def summary(table):
    """{split: final and best accuracy, and the first layer whose interval lies above chance (None:
    no layer)}.
    """
    known = {}
    for split in dict.fromkeys(row["split"] for row in table):
        of_split = [row for row in table if row["split"] == split]
        best = max(of_split, key=lambda row: row["accuracy"])
        above = [
            row["layer"]
            for row in of_split
            if row["accuracy_low"] is not None and row["accuracy_low"] > row["chance"]
        ]
        known[split] = {
            "final_accuracy": of_split[-1]["accuracy"],
            "best_accuracy": best["accuracy"],
            "best_layer": best["layer"],
            "first_layer_above_chance": above[0] if above else None,
        }
    return known


def plot(table, name, lens):
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table)
    fig, (ax,) = figures.figure(f"Accuracy through the {lens.replace('_', ' ')} lens", name)
    for split, of_split in table.groupby("split", sort=False):
        figures.line(
            ax,
            of_split.layer,
            of_split.accuracy,
            split,
            low=of_split.accuracy_low,
            high=of_split.accuracy_high,
        )
    figures.null(ax, None, float(table.chance.iloc[0]), "chance")
    figures.finish(ax, "layer (0: embeddings)", "accuracy")
    ax.set_ylim(0, 1.02)
    return fig


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    lens: Annotated[str, typer.Option(help="logit, tuned or vocab_probe.")] = "logit",
    data: options.Data = Path("data/mini"),
    train: Annotated[Path, typer.Option(help="Texts that the fitted lenses learn from.")] = Path(
        "data/mini/retain.txt"
    ),
    train_tokens: Annotated[int, typer.Option(min=16, help="Tokens to fit a lens to.")] = 2048,
    train_steps: Annotated[
        int, typer.Option(min=0, help="Adam steps a layer, 128 tokens each.")
    ] = 60,
    train_lr: Annotated[
        float, typer.Option(min=0, help="Adam's learning rate, falling linearly to 0.")
    ] = 5e-3,
    max_samples: Annotated[
        int, typer.Option("--max-samples", min=1, help="Questions a split, drawn by --seed.")
    ] = 300,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Multiple-choice accuracy of one model, read from each of its layers."""
    from brittle.base.tables import of_seed
    from brittle.data.batches import encode
    from brittle.data.items import read_items, read_text_rows, subset, text_files
    from brittle.diagnostics.common import of_model
    from brittle.metrics import mcq
    from brittle.models.architectures import context_length

    if lens not in ("logit", "tuned", "vocab_probe"):
        raise UserError(f"--lens {lens}: choose logit, tuned or vocab_probe.")
    seeds = options.seed_list(
        seeds, seed, "the choice of --max-samples questions and a fitted lens's training"
    )
    files = {s: Path(data) / f"mcq_{s}.jsonl" for s in ("forget", "retain")}
    items = {s: read_items(f) for s, f in files.items() if s == "forget" or f.is_file()}
    inputs = [files[s] for s in items] + (text_files(train) if lens != "logit" else [])
    with of_model(outdir, model, inputs, seeds, device, dtype, reading) as opened:
        from brittle.diagnostics.lens import make_lenses, tokens

        loaded, tokenizer = opened.model, opened.tokenizer
        context, pad = context_length(loaded.config), tokenizer.pad_token_id
        h, table = None, []
        if lens != "logit":
            limit = min(512, context)
            ids = encode(tokenizer, read_text_rows(train), limit, "training texts", reading)
        for s in seeds:
            if lens != "logit":
                h = tokens(loaded, ids, pad, batch_size, train_tokens, s)
            lenses = make_lenses(lens, loaded, h, train_steps, lr=train_lr, seed=s)
            for split, every in items.items():
                questions = subset(every, max_samples, s)
                pairs = mcq.encode_items(tokenizer, questions, context, reading)
                sums, divergence = lens_logprobs(loaded, lenses, pairs, pad, batch_size)
                if not sums.isfinite().all():
                    raise UserError(f"{model} {mcq.BROKEN}")
                table += rows(split, sums, divergence, questions, lens, s)
        shown = of_seed(table, seeds[0])
        opened.run.figure(plot(shown, opened.title, lens), "lens_accuracy.png")
        opened.run.path("summary.json").write_text(
            json.dumps(summary(shown), indent=1) + "\n", encoding="utf-8"
        )
        opened.run.csv("wmdp_lens_results.csv", COLUMNS, table)
    from brittle.report import results

    results.say("14", outdir)


if __name__ == "__main__":
    command.run(main)
