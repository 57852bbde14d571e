"""Can a model be made to forget texts that whoever changes it has never read?

    uv run hooks/blind.py anonymise --how template --outdir outputs/blind/request
    uv run hooks/blind.py fit --model M --forget outputs/blind/request/anonymised.jsonl \\
        --outdir outputs/blind/filters
    uv run hooks/blind.py evaluate --model M --filters outputs/blind/filters \\
        --outdir outputs/blind/evaluation

`anonymise` (the owner) replaces what is private in --forget (--how regex|template|surrogate|hash;
--table FILE are its private facts), audits what is left, and refuses to write a text that still
holds a private string (--drop-left leaves such texts out).

`fit` (the server) reads anonymised forget text, public originals (--public, which it anonymises
itself) and retain text, never a raw forget text. It makes filters from states that are estimated in
several ways, controls among them (see brittle/filters/blind/estimates.py).

`evaluate` (a trusted third, who has everything) measures accuracy with each filter, beside no
filter and the `oracle`, which read the true forget text. The same anonymised text stands for many
originals, so expect what the template says to go, not the person.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, groups, options
from brittle.base.errors import UserError

AUDIT = ["kind", "n", "left", "removed", "ci_low", "ci_high"]
SCORES = ["r2", "r2_identity", "r2_template", "r2_within", "cosine"]
FACTS = ["ratio", "energy_forget", "energy_retain", "n_forget", "n_retain"]
COLUMNS = [
    "variant",
    "site",
    "how",
    "k",
    "ratio",
    "energy_forget",
    "energy_retain",
    "strength",
    "limited",
    "retain_kl",
    "n_forget",
    "n_retain",
    "n_pairs",
    *SCORES,
]
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
TABLES = ("qa_forget", "private", "rules")  # of --data: the owner's private facts
PUBLIC = ("qa_real_authors", "qa_world_facts")  # of --data: public originals
MINI = Path("data/mini")


def anonymise(outdir, forget, facts_of, anonymiser_of, *, drop_left):
    """Write anonymised.jsonl and audit.csv, of texts of which nothing private is left.

    facts_of: (JSONL files of private facts, their domain). anonymiser_of: (how, salt file, seed).
    """
    from brittle.base.record import Run, say
    from brittle.data.texts import read_lines, read_texts
    from brittle.filters.blind.anonymise import Anonymiser, PrivateFacts, audit, read_table
    from brittle.filters.blind.estimates import write_blind

    tables, domain = facts_of
    how, salt_file, seed = anonymiser_of
    texts = read_texts(forget)
    facts = read_table(tables, domain) if tables else None
    salt = read_lines(salt_file)[0] if salt_file else None
    hide = Anonymiser(how, facts, seed, salt)
    anonymised = [hide(text) for text in texts]
    rows, left = audit(texts, anonymised, facts or PrivateFacts())
    if left and not drop_left:
        kinds = ", ".join(f"{r['kind']} {r['left']} of {r['n']}" for r in rows if r["left"])
        raise UserError(
            f"the audit of --how {how} found private strings in {len(left)} of {len(anonymised)} "
            f"anonymised texts ({kinds[:200]}), so nothing is written. "
            "Use another --how, or leave those texts out with --drop-left."
        )
    sent = [text for i, text in enumerate(anonymised) if i not in set(left)]
    if not sent:
        raise UserError(
            f"--how {how} leaves something private in every text: there is nothing to send. "
            "Use another --how."
        )
    settings = {"how": how, "dropped": len(left)}
    with Run(outdir, [forget, *tables], seed=seed, settings=settings) as run:
        write_blind(run.path("anonymised.jsonl"), sent)
        run.csv("audit.csv", AUDIT, rows)
    say(
        outdir / "anonymised.jsonl",
        f"{len(sent):,} texts, nothing private left; {len(left):,} texts left out.",
    )


def fit_row(blind_filter, blind, how):
    """A row of blind.csv: one variant's filter, and what its network is worth."""
    variant, chosen, reading = blind_filter
    scores = blind.scores.get(variant, {})
    return {
        "variant": variant,
        "site": chosen.site,
        "how": how,
        "k": chosen.k,
        "strength": chosen.strength,
        "limited": int(chosen.strength < 1),
        "retain_kl": reading["retain_kl"],
        "n_pairs": blind.pairs,
        **{key: chosen.about[key] for key in FACTS},
        **{name: scores.get(name) for name in SCORES},
    }


def fit(outdir, folder, blind_file, public, retain, setup, max_samples, device):
    """Write a folder with a filter a variant, the networks, and blind.csv."""
    from brittle.base.record import Run
    from brittle.data.texts import spread
    from brittle.filters.blind import estimates, network
    from brittle.filters.blind import fit as blind_fit
    from brittle.filters.states import read_filter_texts
    from brittle.models.filter import block_of
    from brittle.models.load import load_model, load_tokenizer

    block_of(setup.site)
    texts = spread(estimates.read_blind(blind_file), max_samples)
    settings = {"stage": "fit", **vars(setup)}
    inputs, models = [blind_file, retain, *public], {"model": str(folder)}
    with Run(outdir, inputs, models, setup.seed, settings, whole=True) as run:
        model, tokenizer = load_model(folder, device, "auto"), load_tokenizer(folder)
        block_of(setup.site, model)
        examples = read_filter_texts(
            tokenizer, retain, max_samples, setup.max_length, "retain texts"
        )
        blind, asked = blind_fit.estimate(model, tokenizer, texts, public, examples, setup)
        about = {"site": setup.site, "how": setup.how}
        for variant, trained in blind.networks.items():
            network.save(trained, run.path(f"{variant}.safetensors"), about)
        table = []
        for blind_filter in blind_fit.make_filters(
            model, blind, asked, examples, tokenizer.pad_token_id, setup
        ):
            home = run.stage / f"filter-{blind_filter.variant}"
            home.mkdir()
            blind_filter.filter.save(home)
            table.append(fit_row(blind_filter, blind, setup.how))
        run.csv("blind.csv", COLUMNS, table)
    for row in table:
        print(
            f"{row['variant']:<10} k {row['k']:<3} strength {row['strength']:.2f}  "
            f"retain KL {row['retain_kl']:.3f}"
        )


def evaluation_rows(model, tokenizer, filters, sets):
    """A row a filter and split; `filters` {variant: Filter or None}, `sets` {split: items}."""
    from brittle.data.items import groups_of
    from brittle.maths.intervals import share
    from brittle.metrics import mcq

    for variant, chosen in filters.items():
        about = {"variant": variant, "site": None, "how": None, "k": None, "strength": None}
        if chosen is not None:
            about["site"], about["how"] = chosen.site, chosen.about.get("how")
            about["k"], about["strength"] = chosen.k, chosen.strength
        for split, hits in mcq.right_answers(model, tokenizer, chosen, sets).items():
            accuracy, low, high = share(hits, groups_of(sets[split]))
            yield {
                **about,
                "split": split,
                "accuracy": accuracy,
                "n": len(hits),
                "ci_low": low,
                "ci_high": high,
            }


def oracle(model, tokenizer, forget, retain, setup, max_samples):
    """The filter that read the true forget text, at the same site and retain limit."""
    from brittle.filters.blind import fit as blind_fit
    from brittle.filters.states import read_filter_texts, states

    pad_id = tokenizer.pad_token_id
    asked, kept = (
        read_filter_texts(tokenizer, path, max_samples, setup.max_length, "texts")
        for path in (forget, retain)
    )
    forget_rows, retain_rows = (
        states(model, examples, pad_id, setup.site).states.to(model.device)
        for examples in (asked, kept)
    )
    blind = blind_fit.BlindStates({"oracle": forget_rows}, retain_rows)
    (result,) = blind_fit.make_filters(model, blind, asked, kept, pad_id, setup)
    return result.filter


def plot(table, name):
    """Accuracy of each split by variant, with 95 % intervals."""
    from brittle.base import figures

    title = "Blind unlearning: filters that never read the forget text"
    figure, axes = figures.figure(title, name, rows=1, columns=1)
    variants = list(dict.fromkeys(row["variant"] for row in table))
    for place, split in enumerate(SPLITS):
        of_split = {row["variant"]: row for row in table if row["split"] == split}
        rows = [of_split[variant] for variant in variants]
        x = [i + (place - 1) * 0.27 for i in range(len(rows))]
        errors = figures.error_bars(rows, "accuracy", "ci_low", "ci_high")
        axes[0].bar(x, [row["accuracy"] for row in rows], 0.26, yerr=errors, label=split)
    axes[0].axhline(0.25, color="0.6", linestyle=":", linewidth=1)
    axes[0].set(ylabel="accuracy", ylim=(0, 1.05))
    axes[0].set_xticks(range(len(variants)), variants)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def evaluate(outdir, folder, filters, texts, data, max_samples, seed, device):
    """Write blind_evaluation.csv and .png. texts: (forget file, retain file)."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.data.items import read_splits, subset
    from brittle.filters.blind.fit import BlindSetup
    from brittle.models.filter import load
    from brittle.models.load import load_model, load_tokenizer

    homes = sorted(Path(filters).glob("filter-*")) if filters else []
    if not homes:
        raise UserError(
            f"--filters {filters} holds no filter-* folder. "
            "Make them with: uv run hooks/blind.py fit"
        )
    loaded = {home.name.removeprefix("filter-"): load(home) for home in homes}
    first = next(iter(loaded.values()))
    questions = [data / f"mcq_{split}.jsonl" for split in SPLITS]
    inputs = [*(home / "filter.safetensors" for home in homes), *texts, *questions]
    sets = {split: subset(items, max_samples, seed) for split, items in read_splits(data).items()}
    with Run(outdir, inputs, {"model": str(folder)}, seed, {"stage": "evaluate"}) as run:
        model, tokenizer = load_model(folder, device, "auto"), load_tokenizer(folder)
        basis, gated = first.about.get("basis", "auto"), first.gate is not None
        setup = BlindSetup(how="none", site=first.site, basis=basis, gate=gated, seed=seed)
        compared = {
            "no filter": None,
            "oracle": oracle(model, tokenizer, *texts, setup, max_samples),
            **{variant: chosen.to(model.device) for variant, chosen in loaded.items()},
        }
        table = list(evaluation_rows(model, tokenizer, compared, sets))
        run.figure(plot(table, model_name(str(folder))), "blind_evaluation.png")
        run.csv("blind_evaluation.csv", EVALUATED, table)
    for variant in compared:
        accuracy = {row["split"]: row["accuracy"] for row in table if row["variant"] == variant}
        shown = "  ".join(f"{split} {accuracy[split]:.2f}" for split in SPLITS)
        print(f"{variant:<10} {shown}")


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
        typer.Option(
            help="fit: auto (gep; pca behind a gate), or one of hooks/fit_filter.py's but loss."
        ),
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
        if not table and (how != "regex" or forget is None):
            table = [data / f"{name}.jsonl" for name in TABLES]
        anonymise(
            outdir,
            forget or data / "forget.txt",
            (table or [], domain),
            (how, salt_file, seed),
            drop_left=drop_left,
        )
        return
    from brittle.models.find import model_folder

    if model is None:
        needs = (
            "--model M and --forget FILE, the anonymised texts" if stage == "fit" else "--model M"
        )
        raise UserError(f"{stage} needs {needs}.")
    if stage == "evaluate":
        texts = (forget or data / "forget.txt", retain)
        folder = model_folder(model)
        evaluate(outdir, folder, filters, texts, data, max_samples, seed, device)
        return
    if forget is None:
        raise UserError("fit needs --model M and --forget FILE, the anonymised texts.")
    from brittle.filters.blind.fit import BlindSetup

    folder = model_folder(model)
    setup = BlindSetup(how, site, limit, draws, basis, gate, max_length, batch_size, seed).check()
    public = public or [data / f"{name}.jsonl" for name in PUBLIC]
    fit(outdir, folder, forget, public, retain, setup, max_samples, device)


HELP_GROUPS = {
    "Stage anonymise": ("table", "domain", "how", "drop_left", "salt_file"),
    "Stage fit": ("public", "site", "basis", "gate", "limit", "draws"),
    "Stage evaluate": ("filters",),
    groups.DATA: ("forget",),
}


if __name__ == "__main__":
    command.run(main, HELP_GROUPS)
