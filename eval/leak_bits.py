"""How many bits of half B do a model's answers still tell, avoided truths included?

    uv run eval/leak_bits.py --model outputs/mini-base__cb_lat/unlearned_model \\
        --outdir outputs/mini-base__cb_lat/leak_bits

Each forget question is asked with all m values of its attribute. q are the model's probabilities of
them, v* is the truth:

    bits = log2 m - mean -log2 (q(v*)^t / sum_v q(v)^t)

The sharpness t is fitted on half A, the bits are those of half B, with an interval over entities.
Guessing tells 0 bits, knowing log2 m. A negative t says that the truth is avoided: accuracy below
chance is as readable as accuracy above it. `bits_null` is the same with the truths of each
attribute shuffled.
"""

from pathlib import Path

from brittle.base import command, options

COLUMNS = [
    "model",
    "forget_accuracy",
    "half_b_accuracy",
    "retain_accuracy",
    "general_accuracy",
    "bits",
    "bits_low",
    "bits_high",
    "bits_null",
    "sharpness",
    "most",
    "n",
    "seed",
]


def row_of(name, accuracies, leaked, seed):
    """The one row of the CSV. accuracies: {split: share}; leaked: a leak_bits.Leak."""
    shares = {f"{split}_accuracy": accuracies.get(split) for split in ("retain", "general")}
    return {
        "model": name,
        "forget_accuracy": accuracies["forget"],
        "half_b_accuracy": accuracies["half B"],
        **shares,
        **leaked._asdict(),
        "seed": seed,
    }


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    data: options.Data = Path("data/mini"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """Leak bits of half B of the forget questions, and the accuracies beside them."""
    from brittle.base.record import say
    from brittle.data.items import read_items
    from brittle.data.subjects import with_halves
    from brittle.metrics import mcq
    from brittle.metrics.leak_bits import leak
    from brittle.models.evaluation import Subject, evaluation

    files = {split: data / f"mcq_{split}.jsonl" for split in ("forget", "retain", "general")}
    files = {s: path for s, path in files.items() if s == "forget" or path.is_file()}
    items = {split: read_items(path) for split, path in files.items()}
    halves = with_halves(items["forget"])
    items["half B"] = [item for item in halves if item["half"] == "B"]
    subject = Subject(
        model,
        data,
        device=device,
        dtype=dtype,
        seed=seed,
        revision=revision,
        wrapper=wrapper,
        wrapper_rules=wrapper_rules,
    )
    with evaluation(outdir, subject, list(files.values())) as opened:
        loaded, tokenizer = opened.load()
        accuracies = mcq.accuracies(loaded, tokenizer, items)
        leaked = leak(loaded, tokenizer, halves, seed)
        opened.run.csv("leak_bits.csv", COLUMNS, [row_of(opened.name, accuracies, leaked, seed)])
    say(
        Path(outdir) / "leak_bits.csv",
        f"half B {accuracies['half B']:.3f}, {leaked.bits:.3f} of {leaked.most:.2f} bits "
        f"(sharpness {leaked.sharpness:.2f}; shuffled {leaked.bits_null:.3f})",
    )


if __name__ == "__main__":
    command.run(main)
