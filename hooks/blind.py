"""Can a model be made to forget texts that whoever changes it has never read?

    uv run hooks/blind.py anonymise --how template --outdir outputs/blind/request
    uv run hooks/blind.py fit --model M --forget outputs/blind/request/anonymised.jsonl --outdir outputs/blind/filters
    uv run hooks/blind.py evaluate --model M --filters outputs/blind/filters --outdir outputs/blind/evaluation

`anonymise` (the owner): replaces what is private in --forget (--how regex|template|surrogate|hash; --table FILE are its private
facts), audits what is left, and refuses to write a text that still holds a private string (--drop-left leaves such texts out).
`fit` (the server): reads anonymised forget text, public originals (--public, which it anonymises itself) and retain text, never a
raw forget text, and makes filters from moments estimated in several ways, controls among them (see brittle/filters/blind/estimates.py).
`evaluate` (a trusted third, who has everything): accuracy with each filter, beside no filter and the `oracle`, which read the
true forget text. The same anonymised text stands for many originals, so expect what the template says to go, not the person.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError

AUDIT = ["kind", "n", "left", "removed", "ci_low", "ci_high"]
SCORES = ["r2", "r2_identity", "r2_template", "r2_within", "cosine"]
COLUMNS = ["variant", "site", "how", "k", "ratio", "energy_forget", "energy_retain", "strength", "limited", "retain_kl",
           "n_forget", "n_retain", "n_pairs", *SCORES]  # fmt: skip
EVALUATED = [
    "variant",
    "site",
    "how",
    "k",
    "strength",
    "split",
    "accuracy",
    "n",
    "ci_low",
    "ci_high",
]
STAGES = ("anonymise", "fit", "evaluate")
SPLITS = ("forget", "retain", "general")
MINI = Path("data/mini")


def anonymise(outdir, forget, tables, domain, how, drop_left, salt_file, max_samples, seed):
    from brittle.base.record import Run
    from brittle.data.texts import read_lines, read_texts
    from brittle.filters.blind.anonymise import Anonymiser, Table, audit, read_table
    from brittle.filters.blind.estimates import write_blind

    texts = read_texts(forget, max_samples)
    facts = read_table(tables, domain) if tables else Table()
    salt = read_lines(salt_file)[0] if salt_file else None
    anonymiser = Anonymiser(how, facts if tables else None, seed, salt)
    made = [anonymiser(t) for t in texts]
    rows, left = audit(texts, made, facts)
    if left and not drop_left:
        kinds = ", ".join(f"{r['kind']} {r['left']} of {r['n']}" for r in rows if r["left"])
        raise UserError(
            f"the audit of --how {how} found private strings in {len(left)} of {len(made)} anonymised texts ({kinds[:200]}), so "
            "nothing is written. Use another --how, or leave those texts out with --drop-left."
        )
    sent = [t for i, t in enumerate(made) if i not in set(left)]
    if not sent:
        raise UserError(
            f"--how {how} leaves something private in every text: there is nothing to send. Use another --how."
        )
    with Run(
        outdir, [forget, *tables], seed=seed, settings={"how": how, "dropped": len(left)}
    ) as run:
        write_blind(run.path("anonymised.jsonl"), sent)
        run.csv("audit.csv", AUDIT, rows)
    print(
        f"{outdir}/anonymised.jsonl: {len(sent):,} texts, nothing private left; {len(left):,} texts left out."
    )


def row(variant, made, reading, found, setup):
    """A row of blind.csv: one variant's filter, and what its network is worth."""
    about = {
        key: made.about[key]
        for key in ("ratio", "energy_forget", "energy_retain", "n_forget", "n_retain")
    }
    scores = found.scores.get(variant, {})
    return about | {
        "variant": variant, "site": made.site, "how": setup.how, "k": made.k, "strength": made.strength,
        "limited": int(made.strength < 1), "retain_kl": reading["retain_kl"], "n_pairs": found.pairs,
        **{name: scores.get(name) for name in SCORES},
    }  # fmt: skip


def fit(outdir, folder, blind_file, public, retain, setup, max_samples, device):
    from brittle.base.record import Run
    from brittle.data.texts import spread
    from brittle.filters import states as states_module
    from brittle.filters.blind import estimates
    from brittle.filters.blind import fit as fit_module
    from brittle.filters.blind.network import save
    from brittle.models.filter import block_of
    from brittle.models.load import load_model, load_tokenizer

    block_of(setup.site)
    texts = spread(estimates.read_blind(blind_file), max_samples)
    settings = {"stage": "fit", **vars(setup)}
    with Run(
        outdir,
        [blind_file, retain, *public],
        {"model": str(folder)},
        setup.seed,
        settings,
        whole=True,
    ) as run:
        model, tokenizer = load_model(folder, device, "auto"), load_tokenizer(folder)
        block_of(setup.site, model)
        kept = states_module.read_examples(
            tokenizer, retain, max_samples, setup.max_length, "retain texts"
        )
        found, asked = fit_module.estimate(model, tokenizer, texts, public, kept, setup)
        for variant, network in found.networks.items():
            save(
                network, run.path(f"{variant}.safetensors"), {"site": setup.site, "how": setup.how}
            )
        table = []
        for variant, made, reading in fit_module.make_filters(
            model, found, asked, kept, tokenizer.pad_token_id, setup
        ):
            (run.stage / f"filter-{variant}").mkdir()
            made.save(run.stage / f"filter-{variant}")
            table.append(row(variant, made, reading, found, setup))
        run.csv("blind.csv", COLUMNS, table)
    for r in table:
        print(
            f"{r['variant']:<10} k {r['k']:<3} strength {r['strength']:.2f}  retain KL {r['retain_kl']:.3f}"
        )


def rows(model, tokenizer, filters, sets):
    """A row a filter and split; `filters` {variant: Filter or None}, `sets` {split: items}."""
    from contextlib import nullcontext

    from brittle.data.items import groups_of
    from brittle.maths import intervals
    from brittle.metrics import mcq
    from brittle.models.filter import hooked

    for variant, made in filters.items():
        with hooked(model, made) if made else nullcontext():
            for split, items in sets.items():
                right = [outcome.right for outcome in mcq.outcomes(model, tokenizer, items)]
                accuracy, low, high = intervals.share(right, groups_of(items))
                about = (
                    variant,
                    *(
                        (made.site, made.about.get("how"), made.k, made.strength)
                        if made
                        else (None,) * 4
                    ),
                )
                yield dict(
                    zip(
                        EVALUATED,
                        (*about, split, accuracy, len(items), low, high),
                        strict=True,
                    )
                )


def oracle(model, tokenizer, forget, retain, setup, max_samples):
    """The filter that read the true forget text, at the same site and retain limit."""
    from brittle.filters import states as states_module
    from brittle.filters.blind import fit as fit_module

    sets = [
        states_module.read_examples(tokenizer, p, max_samples, setup.max_length, "texts")
        for p in (forget, retain)
    ]
    states = [
        states_module.states(model, s, tokenizer.pad_token_id, setup.site)[0].to(model.device)
        for s in sets
    ]
    found = fit_module.Estimates({"oracle": states[0]}, states[1])
    ((_, made, _),) = fit_module.make_filters(model, found, *sets, tokenizer.pad_token_id, setup)
    return made


def plot(table, name):
    """Accuracy of each split by variant, with 95 % intervals."""
    import pandas as pd

    from brittle.base import figures

    frame = pd.DataFrame(table)
    figure, axes = figures.figure(
        "Blind unlearning: filters that never read the forget text", name, rows=1, columns=1
    )
    variants = list(dict.fromkeys(frame["variant"]))
    for place, split in enumerate(SPLITS):
        part = frame[frame["split"] == split].set_index("variant").loc[variants]
        x = [i + (place - 1) * 0.27 for i in range(len(part))]
        errors = [part["accuracy"] - part["ci_low"], part["ci_high"] - part["accuracy"]]
        axes[0].bar(x, part["accuracy"], 0.26, yerr=[e.clip(lower=0) for e in errors], label=split)
    axes[0].axhline(0.25, color="0.6", linestyle=":", linewidth=1)
    axes[0].set(ylabel="accuracy", ylim=(0, 1.05))
    axes[0].set_xticks(range(len(variants)), variants)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def evaluate(outdir, folder, filters, forget, retain, data, max_samples, seed, device):
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data.items import read_splits, subset
    from brittle.filters.blind import fit as fit_module
    from brittle.models.filter import load
    from brittle.models.load import load_model, load_tokenizer

    found = sorted(Path(filters).glob("filter-*")) if filters else []
    if not found:
        raise UserError(
            f"--filters {filters} holds no filter-* folder. Make them with: uv run hooks/blind.py fit"
        )
    loaded = {p.name.removeprefix("filter-"): load(p) for p in found}
    first = next(iter(loaded.values()))
    inputs = [
        *(p / "filter.safetensors" for p in found),
        forget,
        retain,
        *(data / f"mcq_{s}.jsonl" for s in SPLITS),
    ]
    sets = {split: subset(items, max_samples, seed) for split, items in read_splits(data).items()}
    with Run(outdir, inputs, {"model": str(folder)}, seed, {"stage": "evaluate"}) as run:
        model, tokenizer = load_model(folder, device, "auto"), load_tokenizer(folder)
        basis, gated = first.about.get("basis", "auto"), first.gate is not None
        setup = fit_module.Setup(how="none", site=first.site, basis=basis, gate=gated, seed=seed)
        chosen = {
            "no filter": None,
            "oracle": oracle(model, tokenizer, forget, retain, setup, max_samples),
        }
        chosen |= {variant: made.to(model.device) for variant, made in loaded.items()}
        table = list(rows(model, tokenizer, chosen, sets))
        run.figure(plot(table, model_name(str(folder))), "blind_evaluation.png")
        run.csv("blind_evaluation.csv", EVALUATED, table)
    for variant in chosen:
        accuracy = [r["accuracy"] for r in table if r["variant"] == variant]
        print(
            f"{variant:<10} "
            + "  ".join(f"{s} {a:.2f}" for s, a in zip(SPLITS, accuracy, strict=True))
        )


def main(
    stage: Annotated[str, typer.Argument(help="anonymise, fit or evaluate.")],
    outdir: options.Outdir,
    model: Annotated[
        str | None, typer.Option(help="fit, evaluate: model folder or Hugging Face id.")
    ] = None,
    forget: Annotated[
        Path | None, typer.Option(help="anonymise, evaluate: raw texts; fit: the blind file.")
    ] = None,
    retain: options.RetainText = MINI / "retain.txt",
    table: Annotated[
        list[Path] | None,
        typer.Option(help="anonymise: JSONL of private facts (entity, value)."),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="anonymise: rows of --table with another `domain` are left out.")
    ] = "forget",
    how: Annotated[str, typer.Option(help="regex, template, surrogate or hash.")] = "template",
    drop_left: Annotated[
        bool,
        typer.Option("--drop-left", help="anonymise: leave out texts where something is left."),
    ] = False,
    salt_file: Annotated[
        Path | None,
        typer.Option(help="anonymise: salt of --how hash (default: drawn, not kept)."),
    ] = None,
    public: Annotated[
        list[Path] | None, typer.Option(help="fit: JSONL of public originals.")
    ] = None,
    site: Annotated[str, typer.Option(help="fit: post_norm, pre_norm or block:L.")] = "post_norm",
    basis: Annotated[
        str,
        typer.Option(help="fit: auto (gep; pca behind a gate), or one of hooks/fit_filter.py's."),
    ] = "auto",
    gate: Annotated[
        bool,
        typer.Option("--gate", help="fit: act only where a detector of forget-like tokens fires."),
    ] = False,
    limit: Annotated[
        float, typer.Option(min=0, help="fit: retain KL, nats a token, that a filter may cost.")
    ] = 0.05,
    draws: Annotated[
        int, typer.Option(min=1, help="fit: fillings a text of the surrogate control.")
    ] = 3,
    filters: Annotated[
        Path | None, typer.Option(help="evaluate: the folder that fit wrote.")
    ] = None,
    data: options.Data = MINI,
    max_samples: options.MaxSamples = 1024,
    max_length: options.MaxLength = 256,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Blind unlearning: anonymise the forget text, fit filters from that alone, evaluate them."""
    if stage not in STAGES:
        raise UserError(f"stage {stage}: choose {', '.join(STAGES)}.")
    if stage == "anonymise":
        tables = table or (
            []
            if how == "regex" and forget
            else [data / f"{n}.jsonl" for n in ("qa_forget", "private", "rules")]
        )
        return anonymise(
            outdir,
            forget or data / "forget.txt",
            tables,
            domain,
            how,
            drop_left,
            salt_file,
            None,
            seed,
        )
    if model is None or (stage == "fit" and forget is None):
        raise UserError(
            f"{stage} needs --model M"
            + (" and --forget FILE, the anonymised texts." if stage == "fit" else ".")
        )
    from brittle.models.find import model_folder

    folder = model_folder(model)
    if stage == "evaluate":
        return evaluate(
            outdir,
            folder,
            filters,
            forget or data / "forget.txt",
            retain,
            data,
            max_samples,
            seed,
            device,
        )
    from brittle.filters.blind.fit import Setup

    setup = Setup(how, site, limit, draws, basis, gate, max_length, batch_size, seed)
    public = public or [data / "qa_real_authors.jsonl", data / "qa_world_facts.jsonl"]
    return fit(outdir, folder, forget, public, retain, setup, max_samples, device)


if __name__ == "__main__":
    command.run(main)
