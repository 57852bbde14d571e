"""Does the intervention change the shape of the activation distribution, and only on forget texts?

    uv run experiment/activation_covariance_analysis.py --model-a A --model-b B --outdir outputs/A__to__B/activation_covariance \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

Eigenvalues of the unbiased covariance of the residual stream at each layer (0: embeddings, k: after block k-1), of tokens and
of texts (their token means): `unit`. effective_rank: eigenvalues that hold 99 % of the sum; spectral_entropy in nats.
wasserstein: the 1-Wasserstein distance of the two models' spectra, each divided by its mean, so that scale does not count
(mean |difference| of the sorted values). selectivity_ratio: wasserstein on forget over retain texts, on both rows of a pair.
null_wasserstein: model A's spectrum on one half of the texts (every other) against the other half: the distance that texts
alone make, at half the sample, so rather too large. Intervals: 95 %, bootstrap over texts (unit text) and over ten groups of
texts (unit token, up to width 512; beyond it the groups' covariances would not fit in memory and the interval is empty).
"""

import math
from pathlib import Path

from brittle import cli

COLUMNS = ["layer", "split", "unit", "model_a_effective_rank", "model_b_effective_rank", "model_a_spectral_entropy",
           "model_b_spectral_entropy", "wasserstein", "wasserstein_low", "wasserstein_high", "null_wasserstein",
           "selectivity_ratio", "selectivity_ratio_low", "selectivity_ratio_high", "n_texts", "n_tokens", "seed"]  # fmt: skip
GROUPS, WIDE, DRAWS = 10, 512, {False: 50, True: 20}  # DRAWS by whether the model is wide: an eigenproblem a draw


class Moments:
    """Sums over the tokens of each group of texts: count [G], sum [G, D], second moment [G, D, D], float64."""

    def __init__(self):
        self.count, self.sum, self.square = [], [], []

    def add(self, count, total, square):
        """One group's sums."""
        for of, value in ((self.count, count), (self.sum, total), (self.square, square)):
            of.append(value)

    def spectra(self, weights, device="cpu"):
        """Eigenvalues [draws, D], descending, of the covariance with group weights [draws, G]."""
        import torch

        found = []
        for w in weights.tolist():
            n = sum(x * c for x, c in zip(w, self.count, strict=True))
            total, square = (sum(x * part for x, part in zip(w, of, strict=True) if x) for of in (self.sum, self.square))
            covariance = (square - torch.outer(total, total) / n).to(device) / max(n - 1, 1)
            found.append(torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0).cpu())
        return torch.stack(found)


def text_spectra(x, weights):
    """Eigenvalues [draws, min(n, D)], descending, of the covariance of texts x [n, D] with weights [draws, n] of texts."""
    import torch

    x, found = x.double(), []
    for w in weights.to(x):
        centred = (x - w @ x / w.sum()) * w.sqrt()[:, None] / (w.sum() - 1).clamp_min(1).sqrt()
        gram = centred.T @ centred if x.shape[1] <= x.shape[0] else centred @ centred.T
        found.append(torch.linalg.eigvalsh(gram).flip(0).clamp_min(0))
    return torch.stack(found).cpu()


def wasserstein(one, other):
    """[draws]: mean |difference| of sorted eigenvalues [draws, p], each spectrum over its mean (0 where a spectrum is 0)."""
    one, other = (s / s.mean(-1, keepdim=True).clamp_min(1e-300) for s in (one, other))
    return (one - other).abs().mean(-1)


def moments(model, ids, pad_id, batch_size, groups):
    """(Moments a layer, text means [texts, N+1, D]) of one pass; group g is every `groups`-th text from g on."""
    import torch

    from brittle.activations import residual_stream
    from brittle.text import batches

    layers, width = model.config.num_hidden_layers + 1, model.config.hidden_size
    found, means = [Moments() for _ in range(layers)], torch.zeros(len(ids), layers, width)
    new = {"dtype": torch.float64, "device": model.device}
    for g in range(groups):
        count, total, square = 0, torch.zeros(layers, width, **new), torch.zeros(layers, width, width, **new)
        with torch.no_grad():
            for indices, batch in batches(ids[g::groups], pad_id, batch_size, model.device):
                mask = batch["attention_mask"]
                count += int(mask.sum())
                for layer, h in enumerate(residual_stream(model, batch)):
                    x = h[mask.bool()].double()
                    total[layer] += x.sum(0)
                    square[layer].addmm_(x.T, x)
                    mean = (h.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                    means[[g + groups * i for i in indices], layer] = mean.cpu()
        for layer, (t, q) in enumerate(zip(total.cpu(), square.cpu(), strict=True)):
            found[layer].add(count, t, q)
    return found, means


def measure(spectra, halves):
    """Columns of one layer, split and unit; spectra {model: [1 + draws, p]}, the first of all texts; halves of model A."""
    from brittle.linalg import empirical_rank, entropy_rank
    from brittle.stats import quantiles

    row, distances = {}, wasserstein(spectra["model_a"], spectra["model_b"])
    for model, values in spectra.items():
        s = values[0].sqrt()  # the functions of singular values square them
        row[f"{model}_effective_rank"] = empirical_rank(s)
        row[f"{model}_spectral_entropy"] = math.log(entropy_rank(s)) if s[0] > 0 else 0.0
    row |= {"wasserstein": float(distances[0]), "null_wasserstein": float(wasserstein(*halves.split(1)))}
    row["wasserstein_low"], row["wasserstein_high"] = quantiles(distances[1:])
    return row, distances


def rows(collected, ids, groups, seed, device="cpu"):
    """A row a layer, split and unit; `collected` {split: {model: (Moments a layer, text means)}}."""
    import torch

    from brittle.diagnostics import ratio
    from brittle.stats import quantiles, resample

    draws, parity = DRAWS[groups != GROUPS], torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weights = {}
    for split, texts in ids.items():
        n = len(texts)
        token = resample(groups, draws, seed, split) if groups == GROUPS else torch.zeros(0, groups)
        weights[split] = {
            "token": (torch.cat([torch.ones(1, groups), token.float()]), parity.repeat(1, groups // 2)),
            "text": (torch.cat([torch.ones(1, n), resample(n, draws, seed, split).float()]), parity.repeat(1, n // 2 + 1)[:, :n]),
        }
    for layer in range(next(iter(collected["forget"].values()))[1].shape[1]):
        for unit in ("token", "text"):
            made = {}
            for split, of in collected.items():
                every, halves = weights[split][unit]

                def spectra(model, w, of=of, layer=layer, unit=unit):
                    found, means = of[model]
                    return found[layer].spectra(w, device) if unit == "token" else text_spectra(means[:, layer].to(device), w)

                made[split] = measure({m: spectra(m, every) for m in of}, spectra("model_a", halves))
            forget, retain = (made[split][1] for split in ("forget", "retain"))
            low, high = quantiles(forget[1:] / retain[1:])
            for split in collected:
                yield made[split][0] | {
                    "layer": layer, "split": split, "unit": unit, "selectivity_ratio": ratio(float(forget[0]), float(retain[0])),
                    "selectivity_ratio_low": low, "selectivity_ratio_high": high, "n_texts": len(ids[split]),
                    "n_tokens": sum(map(len, ids[split])), "seed": seed,
                }  # fmt: skip


def plot(table, names):
    import pandas as pd

    from brittle import plots

    table = pd.DataFrame(table, columns=COLUMNS)
    fig, axes = plots.figure("Shape of the activation distribution (tokens)", names, columns=3)
    table = table[table.unit == "token"]
    for split in ("retain", "forget"):
        part = table[table.split == split]
        low, high = (part[f"wasserstein_{side}"].astype(float) for side in ("low", "high"))
        plots.line(axes[0], part.layer, part.wasserstein, split, low=low, high=high)
        plots.null(axes[0], part.layer, part.null_wasserstein, f"null, {split}", colour=split)
        plots.line(axes[1], part.layer, part.model_a_effective_rank, f"{split}, model_a", colour=split)
        plots.line(axes[1], part.layer, part.model_b_effective_rank, f"{split}, model_b", colour=split, linestyle="--")
    part = table[table.split == "forget"]
    low, high = (part[f"selectivity_ratio_{side}"].astype(float) for side in ("low", "high"))
    plots.line(axes[2], part.layer, part.selectivity_ratio.astype(float), "forget / retain", colour="model_a", low=low, high=high)
    plots.null(axes[2], None, 1.0, "not selective")
    for ax, label in zip(axes, ("wasserstein", "effective_rank", "selectivity_ratio"), strict=True):
        plots.finish(ax, "layer (0: embeddings)", label)
    return fig


def main(
    model_a: cli.ModelA,
    model_b: cli.ModelB,
    outdir: cli.Outdir,
    forget: cli.ForgetText = Path("data/mini/forget.txt"),
    retain: cli.RetainText = Path("data/mini/retain.txt"),
    max_samples: cli.MaxSamples = 500,
    max_length: cli.TextLength = None,
    batch_size: cli.BatchSize = 32,
    device: cli.Device = "auto",
    dtype: cli.Dtype = "auto",
    seed: cli.Seed = 0,
):
    """Covariance spectra of two models' activations on forget and retain texts, and how selectively they differ."""
    from brittle import diagnostics, models, plots, results
    from brittle.errors import UserError

    folders = {"model_a": models.model_folder(model_a), "model_b": models.model_folder(model_b)}
    with results.Run(outdir, inputs=[forget, retain], models=folders, seed=seed) as run:
        models.check_pair(*folders.values())
        tokenizer, collected = models.load_tokenizer(folders["model_a"]), {"forget": {}, "retain": {}}
        for name, folder in folders.items():  # one model after the other: each leaves only its sums
            model = models.load_model(folder, device, dtype)
            if name == "model_a":
                limit = diagnostics.length_limit(max_length, model.config)
                ids = diagnostics.encode_splits(tokenizer, {"forget": forget, "retain": retain}, max_samples, limit)
                shortest = min(ids, key=lambda split: len(ids[split]))
                if len(ids[shortest]) < 4:
                    raise UserError(f"a covariance needs at least 4 texts; the {shortest} file gives {len(ids[shortest])}.")
                groups = 2 if model.config.hidden_size > WIDE or len(ids[shortest]) < GROUPS else GROUPS
            for split, texts in ids.items():
                collected[split][name] = moments(model, texts, tokenizer.pad_token_id, batch_size, groups)
        used = model.device
        del model
        table = list(rows(collected, ids, groups, seed, used))
        run.figure(plot(table, plots.pair(model_a, model_b)), "covariance.png")
        run.csv("covariance.csv", COLUMNS, table)
    print(f"{outdir}/covariance.csv: {len(table)} rows")


if __name__ == "__main__":
    cli.run(main)
