"""Did the intervention damage the language itself: how far did predictions on neutral text move?

    uv run experiment/neutral_text.py --model-a A --model-b B --data data/mini \
        --outdir outputs/A__to__B/neutral_text

Neutral texts (neutral.txt of --data) stand in neither set, so nothing trains on them. Where the
folder has none, the retain texts are read in their place, and `texts` says so. Over all tokens, in
nats a token: `kl` is KL(p_a || p_b), `nll_a` and `nll_b` are the models' negative log-likelihoods,
`nll_change` is nll_b - nll_a. _low and _high are 95 % bootstrap intervals over texts.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

COLUMNS = [
    "texts",
    "n_texts",
    "n_tokens",
    "nll_a",
    "nll_b",
    "nll_change",
    "nll_change_low",
    "nll_change_high",
    "kl",
    "kl_low",
    "kl_high",
    "seed",
]
FILES = ("neutral.txt", "retain.txt", "retain.jsonl")
LENGTH, DRAWS = 64, 1000


def text_file(data):
    """The first of FILES in the folder `data`. Raises UserError where it has none of them."""
    for name in FILES:
        if (Path(data) / name).is_file():
            return Path(data) / name
    raise UserError(f"--data {data} has none of {', '.join(FILES)} to read. See docs/data.md.")


def sums(model_a, model_b, ids, pad_id):
    """[texts, 4] float64: a text's predicted tokens, and over them the sums of nll_a, nll_b, kl."""
    import torch

    from brittle.data.batches import batches
    from brittle.maths.precision import wide
    from brittle.models.logprobs import kl_rows, target_mask, token_logprobs

    totals = torch.zeros(len(ids), 4, dtype=torch.float64)
    with torch.no_grad():
        for indices, batch in batches(ids, pad_id, 8, model_a.device):
            logits_a, logits_b = model_a(**batch).logits, model_b(**batch).logits
            mask, targets = target_mask(batch), batch["input_ids"]
            kl = kl_rows(*(wide(x[:, :-1]).log_softmax(-1) for x in (logits_a, logits_b)))
            nll_a, nll_b = (-token_logprobs(x, targets) for x in (logits_a, logits_b))
            columns = [mask, nll_a * mask, nll_b * mask, kl * mask]
            totals[indices] = torch.stack([c.double().sum(1) for c in columns], 1).cpu()
    return totals


def measure(totals, seed):
    """The numbers of a row, from `sums`; texts are drawn with replacement by `seed`."""
    from brittle.maths.intervals import quantiles, resample

    counts = resample(len(totals), DRAWS, seed, "neutral texts")
    tokens, nll_a, nll_b, kl = totals.sum(0).tolist()
    drawn = counts @ totals
    change_low, change_high = quantiles((drawn[:, 2] - drawn[:, 1]) / drawn[:, 0])
    kl_low, kl_high = quantiles(drawn[:, 3] / drawn[:, 0])
    return {
        "n_texts": len(totals),
        "n_tokens": int(tokens),
        "nll_a": nll_a / tokens,
        "nll_b": nll_b / tokens,
        "nll_change": (nll_b - nll_a) / tokens,
        "nll_change_low": change_low,
        "nll_change_high": change_high,
        "kl": kl / tokens,
        "kl_low": kl_low,
        "kl_high": kl_high,
    }


def main(
    model_a: options.ModelA,
    model_b: options.ModelB,
    outdir: options.Outdir,
    data: Annotated[
        Path, typer.Option("--data", help="Folder with neutral.txt, else with retain texts.")
    ] = Path("data/mini"),
    max_samples: Annotated[int, typer.Option(min=2, help="Texts to read, drawn by --seed.")] = 256,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
):
    """Predictions of two models on neutral text, in nats a token."""
    from brittle.base.record import Run
    from brittle.data.batches import encode
    from brittle.data.items import draw_texts
    from brittle.models.find import check_pair, model_folder
    from brittle.models.load import load_changed, load_tokenizer

    folders = {"model_a": model_folder(model_a), "model_b": model_folder(model_b, adapters=True)}
    path = text_file(data)
    with Run(outdir, [path], folders, seed=seed, settings={"length": LENGTH}) as run:
        check_pair(*folders.values())
        tokenizer = load_tokenizer(folders["model_a"])
        texts = draw_texts(path, max_samples, seed).texts
        ids = [i[:LENGTH] for i in encode(tokenizer, texts, 10**9, f"texts of {path}")]
        ids = [i for i in ids if len(i) > 1]
        a, b = (load_changed(f, folders["model_a"], device, dtype) for f in folders.values())
        row = measure(sums(a, b, ids, tokenizer.pad_token_id), seed)
        row |= {"texts": path.stem, "seed": seed}
        run.csv("neutral.csv", COLUMNS, [row])
    print(
        f"{outdir}/neutral.csv: KL {row['kl']:.3f} nats a token on {row['n_texts']} {path.stem} "
        f"texts, NLL {row['nll_a']:.3f} -> {row['nll_b']:.3f}"
    )


if __name__ == "__main__":
    command.run(main)
