"""Did the intervention make the model's output more or less sensitive to its input?

    uv run experiment/local_lipschitzness_analysis.py --model-a A --model-b B \
        --outdir outputs/A__to__B/lipschitzness \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

The function: a text's embeddings e -> the logits after its last token, less their mean (a shift of
all logits is no change). For each eps, --perturbations Gaussian directions of length eps ||e||:
lipschitz is a text's largest ||df|| / ||de|| and output_variance the variance of a logit over them.
Random directions miss the worst one, so jacobian_norm gives it: the largest singular value of
df/de, by power iteration with exact products (a lower bound that rises with --iterations; the same
on every eps row). gradient_norm: of the text's mean NLL by e. Means over texts, which are drawn
from the files by --seed; 95 % intervals by Student's t over entities where the data name them
(forget.facts.jsonl, or `entity` in JSONL), else over texts. The null: split `shuffled`, the forget
texts with their tokens in random order, which no model was taught. Computed in float32; on a GPU
the derivatives, where nothing cancels, with TensorFloat-32 products (1e-3 relative).
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "model",
    "split",
    "eps",
    "lipschitz_mean",
    "lipschitz_std",
    "gradient_norm_mean",
    "output_variance_mean",
    "lipschitz_low",
    "lipschitz_high",
    "gradient_norm_low",
    "gradient_norm_high",
    "output_variance_low",
    "output_variance_high",
    "jacobian_norm_mean",
    "jacobian_norm_low",
    "jacobian_norm_high",
    "n_texts",
    "n_perturbations",
    "n_iterations",
    "seed",
]


TOKENS = 256  # a batch: the graph of a second derivative keeps 8 MB a token at 6.9B


def shuffled(ids, seed):
    """The texts with their tokens permuted."""
    import torch

    from brittle.maths.intervals import generator

    draw = generator(seed, "shuffled")
    return [[text[i] for i in torch.randperm(len(text), generator=draw).tolist()] for text in ids]


def last_logits(model, e, mask):
    """Centred logits [B, V] after the last real token, from embeddings e [B, T, D]."""
    import torch

    rows, last = torch.arange(len(e), device=e.device), mask.sum(1) - 1
    first = int(last.min())  # no text ends before it, so no logits are asked for there
    logits = (
        model(inputs_embeds=e, attention_mask=mask, logits_to_keep=e.shape[1] - first)
        .logits[rows, last - first]
        .float()
    )
    return logits - logits.mean(-1, keepdim=True)


def norms(x):
    """[B] 2-norms of x [B, ...]."""
    return x.flatten(1).norm(dim=1)


def directions(indices, shape, count, seed, split):
    """[count, B, T, D] Gaussian; each text's own, whatever its batch."""
    import torch

    from brittle.maths.intervals import generator

    _, longest, width = shape
    drawn = torch.zeros(count, len(indices), longest, width)
    for row, index in enumerate(indices):
        drawn[:, row] = torch.randn(
            longest, count, width, generator=generator(seed, f"{split}{index}")
        ).transpose(0, 1)
    return drawn


def sampled(model, e, mask, drawn, eps):
    """({eps: largest ||df|| / ||de|| [B]}, {eps: variance of a logit over perturbations [B]})."""
    import torch

    real, lipschitz, variance = mask[..., None], {}, {}
    with torch.no_grad():
        start = last_logits(model, e, mask)
        for size in eps:
            outputs, slopes = [], []
            for d in drawn.to(e):
                d = d * real
                d = d * (size * norms(e * real) / norms(d))[:, None, None]
                outputs.append(last_logits(model, e + d, mask))
                slopes.append(norms(outputs[-1] - start) / norms(d))
            lipschitz[size] = torch.stack(slopes).amax(0)
            variance[size] = torch.stack(outputs).var(0).mean(-1)
    return lipschitz, variance


def jacobian_norm(model, e, mask, v, iterations):
    """[B] largest singular value of d last_logits / de by power iteration from v [B, T, D].

    J^T u is one backward pass; J v is the derivative of J^T u . v by u (double backward), so both
    are exact.
    """
    import torch

    e, real = e.detach().requires_grad_(True), mask[..., None]
    f = last_logits(model, e, mask)
    u = torch.zeros_like(f, requires_grad=True)
    (pull,) = torch.autograd.grad(f, e, u, create_graph=True)  # J^T u, linear in u
    v = v.to(e) * real
    for step in range(iterations):
        v = v / norms(v).clamp_min(1e-30)[:, None, None]
        (push,) = torch.autograd.grad(pull, u, v, retain_graph=True)  # J v
        if step + 1 < iterations:
            (v,) = torch.autograd.grad(f, e, push, retain_graph=True)
            v = v * real
    return norms(push).detach()


def gradient_norm(model, e, batch):
    """[B] norm of the gradient of each text's mean NLL by its embeddings."""
    import torch

    from brittle.models.logprobs import target_mask, token_logprobs

    e = e.detach().requires_grad_(True)
    logprobs = token_logprobs(
        model(inputs_embeds=e, attention_mask=batch["attention_mask"]).logits, batch["input_ids"]
    )
    wanted = target_mask(batch)
    loss = -((logprobs * wanted).sum(1) / wanted.sum(1).clamp_min(1)).sum()
    return norms(torch.autograd.grad(loss, e)[0])


@contextmanager
def quick_products(device):
    """On a GPU, float32 matrix products in TensorFloat-32."""
    import torch

    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else was)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


@dataclass(frozen=True)
class LipschitzSampling:
    """How a text's neighbourhood is tried: lengths of the steps, random directions, power steps."""

    eps: list
    perturbations: int
    iterations: int
    seed: int


def measure(model, ids, pad_id, batch_size, sampling, split):
    """{measure: [texts]}: ("lipschitz", eps), ("output_variance", eps), "jacobian_norm",
    "gradient_norm".
    """
    import torch

    from brittle.data.batches import batches

    measured = {}

    def put(key, indices, values):
        measured.setdefault(key, torch.zeros(len(ids), dtype=torch.float64))[indices] = (
            values.double().cpu()
        )

    for indices, batch in batches(ids, pad_id, batch_size, model.device, TOKENS):
        mask = batch["attention_mask"]
        e = model.get_input_embeddings()(batch["input_ids"]).detach()
        drawn = directions(indices, e.shape, sampling.perturbations, sampling.seed, split)
        for name, by_eps in zip(
            ("lipschitz", "output_variance"),
            sampled(model, e, mask, drawn, sampling.eps),
            strict=True,
        ):
            for size, values in by_eps.items():
                put((name, size), indices, values)
        with quick_products(model.device):
            put(
                "jacobian_norm",
                indices,
                jacobian_norm(model, e, mask, drawn[0], sampling.iterations),
            )
            put("gradient_norm", indices, gradient_norm(model, e, batch))
    return measured


def rows(model, split, measured, eps, known, entities=None):
    """A row an eps from `measure`'s values; entities [texts] names the entity of each text."""
    from brittle.maths.intervals import mean_interval

    for size in eps:
        row = {"model": model, "split": split, "eps": size, **known}
        for name, key in (
            ("lipschitz", ("lipschitz", size)),
            ("output_variance", ("output_variance", size)),
            ("gradient_norm", "gradient_norm"),
            ("jacobian_norm", "jacobian_norm"),
        ):
            mean, low, high = mean_interval(measured[key], entities)
            row |= {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}
        values = measured["lipschitz", size]
        yield row | {
            "lipschitz_std": float(values.std()) if len(values) > 1 else None,
            "n_texts": len(values),
        }


def plot(table, names):
    """The three sensitivities by split and model; bars with 95 % intervals."""
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS)
    table = table[table.eps == table.eps.min()]
    fig, axes = figures.figure(
        f"Sensitivity to the input (eps {table.eps.min():g})", names, columns=3
    )
    for ax, name in zip(axes, ("lipschitz", "jacobian_norm", "gradient_norm"), strict=True):
        for side, model in enumerate(("model_a", "model_b")):
            of_model = table[table.model == model]
            mean, low, high = (
                of_model[f"{name}_{end}"].astype(float).to_numpy()
                for end in ("mean", "low", "high")
            )
            place = [i + 0.4 * side for i in range(len(of_model))]
            ax.bar(
                place,
                mean,
                0.38,
                label=model,
                color=figures.COLOURS[model],
                yerr=[mean - low, high - mean],
                ecolor="#777777",
            )
        ax.set_xticks([i + 0.2 for i in range(len(of_model))], of_model.split.tolist())
        # model A's bars are the same in every comparison
        reach = 3 * table[table.model == "model_a"][f"{name}_mean"].astype(float).max()
        figures.finish(ax, "split", f"{name}_mean", integer=False, reach=reach)
    return fig


@options.spread
def main(
    pair: options.TextPair,
    epsilon: Annotated[
        str, typer.Option("--epsilon", help="Lengths over that of the embeddings, comma-separated.")
    ] = "0.01,0.1",
    perturbations: Annotated[
        int, typer.Option("--num-perturbations", min=2, help="Random directions a text and eps.")
    ] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Steps of the power iteration.")] = 5,
    max_samples: options.MaxSamples = 16,
    max_length: Annotated[
        int,
        typer.Option("--max-length", min=2, help="Tokens a text; longer ones are cut and counted."),
    ] = 64,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    seeds: options.Seeds = None,
):
    """Local Lipschitz estimates, Jacobian norms and gradient norms of two models on forget and
    retain texts.
    """
    from brittle.base.tables import of_seed
    from brittle.diagnostics.common import Texts, comparison
    from brittle.models.architectures import context_length

    try:
        eps = [float(text) for text in listed(epsilon)]
        if min(eps) <= 0:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--epsilon {epsilon}: positive numbers separated by commas, such as 0.01,0.1."
        ) from None
    seeds = options.seed_list(
        seeds, seed, "the directions and the shuffled texts (not which texts: by the first seed)"
    )
    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, seeds) as opened:
        pad, table = opened.tokenizer.pad_token_id, []
        for name in opened.folders:
            # a difference of bfloat16 logits is mostly rounding
            model = opened.load(name, device, "float32")
            model.set_attn_implementation("eager")  # fused attention has no second derivative
            model.requires_grad_(False)
            if name == "model_a":
                limit = min(max_length, context_length(model.config))
                ids = opened.encode(model.config, limit)
            for s in seeds:
                sampling = LipschitzSampling(eps, perturbations, iterations, s)
                known = {"n_perturbations": perturbations, "n_iterations": iterations, "seed": s}
                for split, texts in (*ids.items(), ("shuffled", shuffled(ids["forget"], s))):
                    measured = measure(model, texts, pad, batch_size, sampling, split)
                    drawn = opened.drawn["forget" if split == "shuffled" else split]
                    table += rows(name, split, measured, eps, known, drawn.entities)
            del model
        opened.run.figure(plot(of_seed(table, seeds[0]), opened.title), "lipschitz.png")
        opened.run.csv("lipschitz.csv", COLUMNS, table)
    from brittle.report import results

    results.say("12", pair.outdir)


if __name__ == "__main__":
    command.run(main)
