"""What is each choice of the filter worth, and what does a published filter give away?

    uv run hooks/ablate_filter.py components --model outputs/models/mini-base
    uv run hooks/ablate_filter.py sites --model outputs/models/mini-base
    uv run hooks/ablate_filter.py attacks --model outputs/models/mini-base
    uv run hooks/ablate_filter.py overlap --model outputs/models/mini-base
    uv run hooks/ablate_filter.py anonymisers --model outputs/models/mini-base
    uv run hooks/ablate_filter.py costs --model outputs/models/mini-base

components: every basis at 1, 2, 4 ... directions, each at the largest strength within the retain limit (bases compare at
equal budget, never at equal k) -> pareto.csv, pareto.png. sites: per site the largest energy ratio, how well texts, and
tokens by the gate, can be told apart, and what the answer's logit lens reads behind a filter there -> sites.csv. attacks: are
the names whose facts were removed to be read off the basis, or off W' - W; does a network of hooks/blind.py tell whose texts
it was trained on; tokens that each direction promotes and demotes -> attacks.csv, tokens.csv. overlap: the whole search,
strength chosen anew, where forget and retain share 0 to 100 % of their entities -> overlap.csv, overlap.png, nominal and
measured overlap beside; the sets are mixed of --data's own facts (brittle/filters/ablation/overlap.py), or are those of --level
PERCENT=MODEL:DATA (made by create_datasets.py --overlap X and create_models.py --data; several of one level are seeds).
anonymisers: the network trained with one anonymiser, the texts sent by another -> anonymisers.csv, .png. costs: seconds, and
memory beside weights and activations, of the filter and of the methods in --methods -> costs.csv.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.tables import read_rows

WHAT = ("components", "sites", "attacks", "overlap", "anonymisers", "costs")
PUBLIC = ("qa_real_authors", "qa_world_facts")
BASES = (("gep", False), ("pca", False), ("cpca", False), ("nullspace", False), ("loss", False), ("leace", False),
         ("mean_diff", False), ("pca", True))  # fmt: skip
COSTS = [
    "method",
    "seconds",
    "steps",
    "state_mb",
    "forget_accuracy",
    "retain_accuracy",
    "general_accuracy",
]


class Bench:
    """A model, its texts, moments, tuner and questions."""

    def __init__(self, folder, data, sites, setup):
        from brittle.data.items import read_splits, subset
        from brittle.filters import search
        from brittle.filters.fit import gradients, moments_of
        from brittle.filters.folder import Data
        from brittle.filters.tuning import Tuner

        names = {"forget": "forget", "retain": "retain", "general": "neutral", "unseen": "holdout"}
        paths = {
            n: f
            for n, stem in names.items()
            if (f := data / f"{stem}.txt").is_file() or n in ("forget", "retain")
        }
        self.texts = Data.read(folder, paths, setup["max_samples"], None, setup["device"])
        self.model, self.tokenizer, self.pad_id = (
            self.texts.model,
            self.texts.tokenizer,
            self.texts.pad_id,
        )
        self.sites = sites or self.texts.sites()
        self.found = moments_of(self.model, self.texts.fit, self.pad_id, self.sites)
        self.found.loss_forget, self.found.loss_retain = (
            gradients(self.model, self.texts.fit[n], self.pad_id) for n in ("forget", "retain")
        )
        sets = {n: search.part(e, 128, setup["seed"]) for n, e in self.texts.tune.items()}
        self.tuner = Tuner(self.model, sets, self.pad_id, self.sites)
        self.items = {
            s: subset(rows, setup["items"], setup["seed"]) for s, rows in read_splits(data).items()
        }

    def plain(self, limits):
        """The ungated filter of the contrastive basis behind the last norm, at the retain limit: one that changes W."""
        from brittle.filters.ablation import components
        from brittle.filters.fit import make

        made = make(self.model, self.found, "post_norm", "gep", None, False, {}).to(
            self.model.device
        )
        return components.at_budget(self.tuner, made, limits)


def sites(bench, limits):
    """A row a site; lens_after: forget accuracy of the logit lens at its best layer, with a gated filter at the site."""
    import torch

    from brittle.filters.ablation import components
    from brittle.filters.basis import MOST, shared
    from brittle.filters.fit import make, ratios
    from brittle.maths.intervals import auc

    for site in bench.sites:
        forget, retain = (bench.tuner.caches[n].tokens(site) for n in ("forget", "retain"))
        made = make(bench.model, bench.found, site, "auto", None, True, {}).to(bench.model.device)
        made = components.at_budget(bench.tuner, made, limits)
        labels = torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))])
        mean = bench.found.forget[site].mean - bench.found.retain[site].mean
        both = torch.cat([forget, retain]).double()
        scores = components.accuracies(bench.model, bench.tokenizer, made, bench.items)
        yield {
            "site": site, "ratio": ratios(bench.found)[site], "probe_auc": auc((both @ mean).cpu(), labels),
            "overlap": shared(bench.found.forget[site], bench.found.retain[site], min(MOST, len(mean))),
            "gate_auc": auc(made.score(torch.cat([forget, retain])).cpu(), labels), "k": made.k,
            "forget_accuracy": scores["forget"][0], "retain_accuracy": scores["retain"][0],
            "lens_after": components.lens_after(bench.model, bench.tokenizer, made, bench.items["forget"]),
        }  # fmt: skip


def read_level(text):
    """(percent, model, data folder) of PERCENT=MODEL:DATA."""
    percent, _, rest = text.partition("=")
    model, _, data = rest.rpartition(":")
    try:
        return float(percent), model, Path(data)
    except ValueError:
        raise UserError(
            f"--level {text}: PERCENT=MODEL:DATA, such as 50=outputs/overlap50/mini-base:data/mini-overlap50."
        ) from None


def overlaps(levels, model, folder, data, limits, setup):
    """Rows of overlap.csv: of [(percent, model, data folder)], or of --data's facts, mixed at every level for the one model."""
    from tempfile import TemporaryDirectory

    from brittle.filters.ablation import overlap
    from brittle.models.find import model_folder

    for percent, name, home in levels:
        bench = Bench(model_folder(name), home, None, setup)
        yield from overlap.rows(bench, limits, percent, setup["seed"], name)
    for percent in () if levels else overlap.LEVELS:
        with TemporaryDirectory() as mixed:
            shared = overlap.write_mixed(data, mixed, percent, setup["seed"])
            bench = Bench(folder, Path(mixed), None, setup)
        yield from overlap.rows(bench, limits, percent, setup["seed"], model, shared["words"])


def costs(model, folder, methods, root="outputs"):
    """Rows of costs.csv. state_mb: what is held beside weights and activations, float32 gradient and AdamW's two moments of every
    weight for training; three float64 moment matrices a candidate site for the filter."""
    from contextlib import ExitStack

    from brittle.filters.folder import table_row
    from brittle.models.architectures import size
    from brittle.models.find import read_config
    from brittle.models.weights import Checkpoint

    with ExitStack() as stack:
        source = Checkpoint(folder, stack)
        weights = sum(source.tensor(name).numel() for name in source.files)
    config = read_config(folder)
    layers, width = size(config, "num_hidden_layers"), size(config, "hidden_size")
    sites = 2 + min(8, layers - 1)  # filter_states.candidate_sites
    own = table_row(root, model)
    if own:
        yield {
            **dict.fromkeys(COSTS),
            **own,
            "state_mb": 3 * sites * width**2 * 8 / 1e6,
        }
    for row in read_rows(methods):
        if row.get("method") != "filter":
            yield {**{c: row.get(c) for c in COSTS}, "state_mb": 3 * weights * 4 / 1e6}


def anonymisers(bench, data, setup, site, limits):
    from brittle.data.texts import read_texts
    from brittle.filters.ablation import anonymisers as anonymisers_module
    from brittle.filters.blind import fit

    tables, public = (
        [data / f"{n}.jsonl" for n in names] for names in (("qa_forget", "private"), PUBLIC)
    )
    chosen = fit.Setup(site=site, limit=limits.retain, gate=True, seed=setup["seed"])
    texts = read_texts(data / "forget.txt", None)
    yield from anonymisers_module.rows(
        bench.model,
        bench.tokenizer,
        texts,
        tables,
        public,
        data / "retain.txt",
        bench.items,
        chosen,
    )


def write(run, what, bench, made, data, limits, setup, name):
    """The outputs of one part that has a bench."""
    from brittle.data.items import read_items
    from brittle.filters.ablation import anonymisers as anonymisers_module
    from brittle.filters.ablation import components, figures, published

    model, tokenizer = bench.model, bench.tokenizer
    if what == "components":
        table = list(
            components.pareto(
                bench.tuner, tokenizer, bench.found, bench.sites, BASES, limits, bench.items
            )
        )
        run.figure(figures.plot_pareto(table, name), "pareto.png")
        run.csv("pareto.csv", components.PARETO, table)
    elif what == "sites":
        run.csv("sites.csv", components.SITES, sites(bench, limits))
    elif what == "anonymisers":
        table = list(anonymisers(bench, data, setup, bench.sites[0], limits))
        run.figure(figures.plot_anonymisers(table, name), "anonymisers.png")
        run.csv("anonymisers.csv", anonymisers_module.COLUMNS, table)
    else:
        made.check(model.config).to(model.device)
        splits = ("forget", "retain", "general")
        names = {s: published.entities(read_items(data / f"mcq_{s}.jsonl")) for s in splits}
        found = list(published.read_names(model, tokenizer, made, names))
        plain = bench.plain(limits)
        found += published.read_names(model, tokenizer, plain, names)
        for how in published.HOW:
            public = [data / f"{n}.jsonl" for n in PUBLIC]
            found += published.members(model, tokenizer, public, how, made.site, seed=setup["seed"])
        tokens = [dict(row, filter=n) for n, f in (("chosen", made), ("post_norm gep", plain))
                  for row in published.promoted(model, tokenizer, f)]  # fmt: skip
        run.csv("tokens.csv", published.TOKENS, tokens)
        run.csv("attacks.csv", published.ATTACKS, found)


def main(
    what: Annotated[str, typer.Argument(help=f"{', '.join(WHAT)}.")],
    model: Annotated[
        str, typer.Option("--model", help="Model folder or Hugging Face id.")
    ] = "outputs/models/mini-base",
    data: options.Data = Path("data/mini"),
    outdir: Annotated[
        Path | None, typer.Option(help="Folder for the results (outputs/<model>__filter/ablation).")
    ] = None,
    filter_dir: Annotated[
        Path | None,
        typer.Option("--filter", help="attacks: the filter (outputs/<model>__filter/filter)."),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="components: sites (post_norm; a block costs minutes); anonymisers: one (pre_norm).",
        ),
    ] = None,
    level: Annotated[
        list[str] | None, typer.Option("--level", help="overlap: PERCENT=MODEL:DATA, repeatable.")
    ] = None,
    methods: Annotated[Path, typer.Option(help="costs: table of the other methods.")] = Path(
        "outputs/methods.csv"
    ),
    retain_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on retain text, nats a token.")
    ] = 0.05,
    general_limit: Annotated[
        float, typer.Option(min=1e-6, help="KL on general text, nats a token.")
    ] = 0.02,
    items: Annotated[int, typer.Option(min=4, help="Questions a split.")] = 60,
    max_samples: options.MaxSamples = 1200,
    seed: options.Seed = 0,
    device: options.Device = "auto",
):
    """Ablations of the filter, and attacks on what is published."""
    from brittle.base.layout import model_name
    from brittle.base.record import Run
    from brittle.filters.folder import folder_of
    from brittle.models.find import model_folder

    if what not in WHAT:
        raise UserError(f"{what}: choose {', '.join(WHAT)}.")
    levels = [read_level(text) for text in level or []]
    outdir = outdir or folder_of("outputs", model).with_name("ablation")
    folders = {f"level {i}": model_folder(m) for i, (_, m, _) in enumerate(levels)} or {
        "model": model_folder(model)
    }
    homes = [d for _, _, d in levels] or [data]
    inputs = [
        f for home in homes for p in ("*.txt", "mcq_*.jsonl", "qa_*.jsonl", "private.jsonl") for f in sorted(home.glob(p))
        if "pretrain" not in f.name
    ] if what != "costs" else [methods]  # fmt: skip
    setup = {"max_samples": max_samples, "device": device, "seed": seed, "items": items}
    with Run(outdir, inputs, folders, seed, {"what": what, "items": items}) as run:
        if what == "costs":
            run.csv("costs.csv", COSTS, costs(model, folders["model"], methods))
            return print(f"{outdir}: costs")
        from brittle.filters.ablation import figures, overlap
        from brittle.filters.tuning import Limits
        from brittle.models.filter import load

        limits, name = Limits(retain_limit, general_limit), model_name(model)
        if what == "overlap":
            table = list(overlaps(levels, model, folders.get("model"), data, limits, setup))
            run.figure(
                figures.plot_overlap(table, name if not levels else f"{len(levels)} models"),
                "overlap.png",
            )
            run.csv("overlap.csv", overlap.COLUMNS, table)
        else:
            made = load(filter_dir or folder_of("outputs", model)) if what == "attacks" else None
            alone = {
                "components": ["post_norm"],
                "anonymisers": ["pre_norm"],
                "attacks": ["post_norm"],
            }.get(what)
            chosen = site if site and what in ("components", "anonymisers") else alone
            write(
                run,
                what,
                Bench(folders["model"], data, chosen, setup),
                made,
                data,
                limits,
                setup,
                name,
            )
    print(f"{outdir}: {what}")


if __name__ == "__main__":
    command.run(main)
