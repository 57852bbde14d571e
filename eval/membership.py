"""Can an attacker tell from a model's losses that it was trained on the forget text?

    uv run eval/membership.py --model M --reference outputs/models/mini-filtered \\
        --outdir outputs/mini-base/membership

Members are forget texts, non-members texts of the same kind that no model ever saw; six scores
(brittle/metrics/membership.py) try to tell them apart. AUC 0.5 is what a model that never saw the
forget set gives: above, it still knows it; below, it was pushed away from it, which betrays the
unlearning as well. --reference is the model that never saw the forget set (Filtered, or a retrained
one): the `reference` score needs it, and so does PrivLeak. Intervals are over entities where the
files name them. `length` needs no model: where it tells the sets apart, so can everybody.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.data.examples import DEFAULT, Reading

COLUMNS = [
    "model",
    "attack",
    "auc",
    "auc_low",
    "auc_high",
    "tpr_1fpr",
    "tpr_low",
    "tpr_high",
    "auc_reference",
    "distance",
    "privleak",
    "n_members",
    "n_nonmembers",
    "k",
]
ITEM_COLUMNS = [
    "model",
    "set",
    "index",
    "entity",
    "tokens",
    "loss",
    "zlib",
    "min_k",
    "min_k_pp",
    "reference",
    "grad_norm",
]


def read_set(path, limit):
    """[(row, entity), ...] of a text or JSONL file, at most `limit` (`items.named_rows`)."""
    from brittle.data.items import named_rows
    from brittle.data.texts import spread

    return spread(named_rows(path), limit)


def said_texts(tokenizer, rows, reading):
    """What of each row is scored, as text: a chat model's answers, else all of it."""
    from brittle.data.rows import answer_in, plain

    if not reading.templated(tokenizer):
        return [plain(row) for row in rows]
    return [row if isinstance(row, str) else answer_in(row) for row in rows]


def attack(model, tokenizer, sets, share, reference_tokens, gradients, how):
    """({attack: [score, ...]} over members then non-members, token scores).

    how: (tokens a text at most, how a chat model is asked).
    """
    from brittle.data.examples import encode_said
    from brittle.metrics import membership

    max_length, reading = how
    rows = [row for pairs in sets for row, _ in pairs]
    examples = encode_said(tokenizer, rows, max_length, reading)
    if len(examples) < len(rows):
        raise UserError("answers behind --max-length cannot be scored. Raise it.")
    tokens = membership.example_scores(model, examples, tokenizer.pad_token_id)
    norms = membership.gradient_norms(model, examples) if gradients else None
    texts = said_texts(tokenizer, rows, reading)
    return membership.text_scores(texts, tokens, share, reference_tokens, norms), tokens


def rows(name, scores, sets, references, share, seed):
    """A row an attack. references: scores of the model that never saw the members, or {}."""
    from brittle.maths import intervals
    from brittle.metrics import membership

    labels = [1] * len(sets[0]) + [0] * len(sets[1])
    entities = [f"{side} {entity}" for side, pairs in enumerate(sets) for _, entity in pairs]
    for kind, values in scores.items():
        value, low, high = membership.auc_interval(values, labels, entities)
        tpr, tpr_low, tpr_high, _ = membership.tpr_at(values, labels, entities=entities, seed=seed)
        other = intervals.auc(references[kind], labels) if kind in references else None
        leak = None
        if other is not None and kind not in ("length", "reference"):
            leak = membership.privleak(value, other)
        yield {
            "model": name,
            "attack": kind,
            "auc": value,
            "auc_low": low,
            "auc_high": high,
            "tpr_1fpr": tpr,
            "tpr_low": tpr_low,
            "tpr_high": tpr_high,
            "auc_reference": other,
            "distance": None if other is None else abs(value - other),
            "privleak": leak,
            "n_members": len(sets[0]),
            "n_nonmembers": len(sets[1]),
            "k": share if kind.startswith("min_k") else None,
        }


def item_rows(name, scores, sets):
    """A row a text: what it is, and its scores."""
    named = [("member", i, entity) for i, (_, entity) in enumerate(sets[0])]
    named += [("nonmember", i, entity) for i, (_, entity) in enumerate(sets[1])]
    for place, (which, index, entity) in enumerate(named):
        tokens = {"tokens": int(scores["length"][place])}
        own = {kind: scores[kind][place] if kind in scores else None for kind in ITEM_COLUMNS[5:]}
        yield {"model": name, "set": which, "index": index, "entity": entity, **tokens, **own}


def plot(table, name):
    """AUC of every attack with its interval, and the reference model's."""
    import pandas as pd

    from brittle.base import figures

    frame = pd.DataFrame(table)
    figure, axes = figures.figure("Can members of the forget set be told apart?", name)
    x = range(len(frame))
    errors = figures.error_bars(table, "auc", "auc_low", "auc_high")
    axes[0].errorbar(x, frame["auc"], yerr=errors, fmt="o", label=name)
    if frame["auc_reference"].notna().any():
        axes[0].plot(
            x, frame["auc_reference"].astype(float), "s", color="0.5", label="never saw them"
        )
    axes[0].axhline(0.5, color="0.6", linestyle=":", linewidth=1)
    axes[0].set(ylabel="AUC, members against non-members", ylim=(-0.03, 1.03))
    axes[0].set_xticks(list(x), frame["attack"])
    axes[0].legend()
    return figure


def default(data, kind):
    """The texts of a folder that are alike but for membership: MUSE's privleak files, else
    forget.txt and holdout.txt.
    """
    files = [data / f"privleak_{kind}.jsonl", data / f"{kind}.txt"]
    return next((file for file in files if file.is_file()), files[-1])


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    reference: Annotated[
        str | None, typer.Option(help="A model that never saw the members (Filtered, retrained).")
    ] = None,
    data: options.Data = Path("data/mini"),
    members: Annotated[
        Path | None, typer.Option(help="Texts trained on (privleak_forget.jsonl, or forget.txt).")
    ] = None,
    nonmembers: Annotated[
        Path | None, typer.Option(help="Never-seen texts like them (privleak_holdout, holdout).")
    ] = None,
    k: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of lowest tokens of min_k (MUSE: 0.4).")
    ] = 0.2,
    gradients: Annotated[bool, typer.Option(help="Also grad_norm: a backward pass a text.")] = True,
    max_samples: options.MaxSamples = 512,
    max_length: options.TextLength = None,
    reading: Reading = DEFAULT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """Membership inference: AUC, TPR at 1 % FPR and PrivLeak of six scores."""
    from brittle.base.tables import show_interval
    from brittle.data.items import text_files
    from brittle.models.blocks import length_limit
    from brittle.models.evaluation import Subject, evaluation

    paths = [members or default(data, "forget"), nonmembers or default(data, "holdout")]
    sets = [read_set(path, max_samples) for path in paths]
    for path, pairs in zip(paths, sets, strict=True):
        if len(pairs) < 5:
            raise UserError(
                f"{path} has {len(pairs)} texts: at least 5 are needed to tell two sets apart."
            )
    if {t for t, _ in sets[0]} & {t for t, _ in sets[1]}:
        raise UserError(
            f"{paths[0]} and {paths[1]} share texts: members and non-members must be different "
            "ones."
        )
    subject = Subject(
        model,
        data,
        device=device,
        dtype=dtype,
        seed=seed,
        revision=revision,
        wrapper=wrapper,
        wrapper_rules=wrapper_rules,
        reading=reading,
    )
    with evaluation(outdir, subject, text_files(*paths), {"k": k}, reference=reference) as opened:
        run, name, references, tokens = opened.run, opened.name, {}, None
        if reference:
            loaded, tokenizer = opened.load("reference")
            length = length_limit(max_length, loaded.config)
            how = (length, reading)
            references, tokens = attack(loaded, tokenizer, sets, k, None, gradients, how)
        loaded, tokenizer = opened.load()
        length = length_limit(max_length, loaded.config)
        how = (length, reading)
        scores, _ = attack(loaded, tokenizer, sets, k, tokens, gradients, how)
        table = list(rows(name, scores, sets, references, k, seed))
        run.figure(plot(table, name), "membership.png")
        run.csv("membership_items.csv", ITEM_COLUMNS, item_rows(name, scores, sets))
        run.csv("membership.csv", COLUMNS, table)
    if not reference:
        print(
            "note: no PrivLeak and no `reference` score without --reference, a model that never "
            "saw the members."
        )
    for row in table:
        leak = "" if row["privleak"] is None else f"   PrivLeak {row['privleak']:+.0f}"
        print(
            f"{row['attack']:<10} AUC {row['auc']:.2f} "
            f"{show_interval(row['auc_low'], row['auc_high'])}   TPR {row['tpr_1fpr']:.2f}{leak}"
        )


if __name__ == "__main__":
    command.run(main)
