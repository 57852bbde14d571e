"""Does the intervention suppress or amplify activations, and on which texts do they move?

    uv run experiment/collect_activation_norms.py --model-a A --model-b B \
        --outdir outputs/A__to__B/activation_stats \
        --forget data/mini/forget.txt --retain data/mini/retain.txt

Mean over real tokens of the L1 and L2 norms of the residual stream h (model A, model B) and of dh =
h_b - h_a. Both models read the same batches, once. The
texts are drawn from the files by --seed. `layer` 0 is the embeddings, k the stream after
block k-1, before the final norm.
"""

from brittle.base import command, options
from brittle.data.examples import DEFAULT, Reading
from brittle.models.blocks import block_count

COLUMNS = [
    "layer",
    "split",
    "model_a_norm_L1",
    "model_a_norm_L2",
    "model_b_norm_L1",
    "model_b_norm_L2",
    "mean_dh_L1",
    "mean_dh_L2",
]


def norm_means(model_a, model_b, ids, pad_id, batch_size):
    """[N+1, 6] float64: means over the real tokens of `ids`, columns as in the CSV."""
    import torch

    from brittle.data.batches import batches
    from brittle.diagnostics.common import TOKENS
    from brittle.models.hooks import residual_stream

    device, tokens = model_a.device, 0
    totals = torch.zeros(block_count(model_a) + 1, 6, dtype=torch.float64, device=device)
    with torch.no_grad():
        for _, batch in batches(ids, pad_id, batch_size, device, TOKENS):
            real = batch["attention_mask"].bool()
            streams = residual_stream(model_a, batch), residual_stream(model_b, batch)
            for layer, (h_a, h_b) in enumerate(zip(*streams, strict=True)):
                h_a, h_b = h_a[real].float(), h_b[real].float()  # [tokens, D]
                norms = [
                    torch.linalg.vector_norm(h, p, dim=-1)
                    for h in (h_a, h_b, h_b - h_a)
                    for p in (1, 2)
                ]
                totals[layer] += torch.stack(norms).double().sum(1)
            tokens += int(real.sum())
    return totals / tokens


def rows(model_a, model_b, ids, pad_id, batch_size):
    """A row a layer and split; `ids` {split: token ids of its texts}."""
    means = {
        split: norm_means(model_a, model_b, i, pad_id, batch_size).tolist()
        for split, i in ids.items()
    }
    for layer in range(block_count(model_a) + 1):
        for split in ids:
            yield dict(zip(COLUMNS, (layer, split, *means[split][layer]), strict=True))


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
):
    """Activation norms of two models, layer by layer, on forget and retain texts (a sample of
    --max-samples of each file).
    """
    from brittle.diagnostics.common import Texts, comparison

    texts = Texts(pair.forget, pair.retain, max_samples, max_length, reading)
    with comparison(pair.outdir, pair.model_a, pair.model_b, texts, [seed]) as opened:
        a, b = (opened.load(name, device, dtype) for name in opened.folders)
        ids, pad = opened.encode(a.config), opened.tokenizer.pad_token_id
        opened.run.settings |= {
            split: {"texts": len(i), "tokens": sum(map(len, i))} for split, i in ids.items()
        }
        opened.run.csv("activation_stats.csv", COLUMNS, rows(a, b, ids, pad, batch_size))
    from brittle.report import results

    results.say("4", pair.outdir)


if __name__ == "__main__":
    command.run(main)
