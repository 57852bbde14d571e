"""What is each choice of the filter worth, and what does a published filter give away?

    uv run hooks/ablate_filter.py components --model outputs/models/mini-base
    uv run hooks/ablate_filter.py sites --model outputs/models/mini-base
    uv run hooks/ablate_filter.py attacks --model outputs/models/mini-base
    uv run hooks/ablate_filter.py overlap --level 0=MODEL:DATA --level 50=MODEL:DATA ...

components: every basis at 1, 2, 4 ... directions, each at the largest strength within the retain limit (bases compare at equal
budget, never at equal k) -> pareto.csv, pareto.png. sites: per site the largest energy ratio, how well texts, and tokens by the
gate, can be told apart, and what the answer's logit lens reads behind a filter there -> sites.csv. attacks: are the names whose
facts were removed to be read off the basis, or off W' - W; tokens that each direction promotes and demotes -> attacks.csv,
tokens.csv. overlap: the whole search, strength chosen anew, on models whose forget and retain sets overlap (create_datasets.py
--overlap X, then create_models.py --data), several of one level being seeds -> overlap.csv, overlap.png, nominal and measured
overlap beside.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle import cli
from brittle.errors import UserError

WHAT = ("components", "sites", "attacks", "overlap")
BASES = (("gep", False), ("pca", False), ("cpca", False), ("nullspace", False), ("loss", False), ("leace", False),
         ("mean_diff", False), ("pca", True))  # fmt: skip
OVERLAP = ["overlap", "measured", "ratio", "site", "gated", "k", "strength", "status", "split", "accuracy", "low", "high", "n",
           "base_accuracy", "model"]  # fmt: skip


class Bench:
    """A model, its texts, moments, tuner and questions."""

    def __init__(self, folder, data, sites, setup):
        from brittle import filter_files, filter_fit, filter_search, mcq
        from brittle.filter_tuning import Tuner

        names = {"forget": "forget", "retain": "retain", "general": "neutral", "unseen": "holdout"}
        paths = {n: f for n, stem in names.items() if (f := data / f"{stem}.txt").is_file() or n in ("forget", "retain")}
        self.texts = filter_files.Data.read(folder, paths, setup["max_samples"], None, setup["device"])
        self.model, self.tokenizer, self.pad_id = self.texts.model, self.texts.tokenizer, self.texts.pad_id
        self.sites = sites or self.texts.sites()
        self.found = filter_fit.moments_of(self.model, self.texts.fit, self.pad_id, self.sites)
        self.found.loss_forget, self.found.loss_retain = (
            filter_fit.gradients(self.model, self.texts.fit[n], self.pad_id) for n in ("forget", "retain")
        )
        sets = {n: filter_search.part(e, 128, setup["seed"]) for n, e in self.texts.tune.items()}
        self.tuner = Tuner(self.model, sets, self.pad_id, self.sites)
        self.items = {s: mcq.subset(rows, setup["items"], setup["seed"]) for s, rows in mcq.read_splits(data).items()}


def sites(bench, limits):
    """A row a site; lens_after: forget accuracy of the logit lens at its best layer, with a gated filter at the site."""
    import torch

    from brittle import filter_ablation, filter_fit
    from brittle.filter_basis import MOST, shared
    from brittle.stats import auc

    for site in bench.sites:
        forget, retain = (bench.tuner.caches[n].tokens(site) for n in ("forget", "retain"))
        made = filter_fit.make(bench.model, bench.found, site, "auto", None, True, {}).to(bench.model.device)
        made = filter_ablation.at_budget(bench.tuner, made, limits)
        labels = torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))])
        mean = bench.found.forget[site].mean - bench.found.retain[site].mean
        both = torch.cat([forget, retain]).double()
        scores = filter_ablation.accuracies(bench.model, bench.tokenizer, made, bench.items)
        yield {
            "site": site, "ratio": filter_fit.ratios(bench.found)[site], "probe_auc": auc((both @ mean).cpu(), labels),
            "overlap": shared(bench.found.forget[site], bench.found.retain[site], min(MOST, len(mean))),
            "gate_auc": auc(made.score(torch.cat([forget, retain])).cpu(), labels), "k": made.k,
            "forget_accuracy": scores["forget"][0], "retain_accuracy": scores["retain"][0],
            "lens_after": filter_ablation.lens_after(bench.model, bench.tokenizer, made, bench.items["forget"]),
        }  # fmt: skip


def attacks(bench, made, data):
    """Rows of attacks.csv: the AUC with which a reader of the basis tells forget names from retain names and other names."""
    from brittle import filter_ablation, mcq
    from brittle.filter_baking import folded

    names = {s: filter_ablation.entities(mcq.read_items(data / f"mcq_{s}.jsonl")) for s in ("forget", "retain", "general")}
    weight = bench.model.get_output_embeddings().weight.detach()
    read = {"basis": made.basis}
    if made.site == "post_norm" and made.linear:
        read["W' - W"] = filter_ablation.recovered(weight, folded(weight, made), made.k)
    for source, u in read.items():
        for other in ("retain", "general"):
            if names["forget"] and names[other]:
                value, low, high = filter_ablation.names_in(bench.model, bench.tokenizer, u, names["forget"], names[other])
                yield {"attack": "names by energy", "what": f"{source}: forget names against {other} names", "value": value,
                       "low": low, "high": high, "chance": 0.5, "n": len(names["forget"]) + len(names[other])}  # fmt: skip


def overlap(levels, limits, setup):
    """Rows of overlap.csv for [(percent, model, data folder)]: the search from the start on each."""
    from brittle import filter_ablation, filter_fit, filter_search, mcq, models
    from brittle.filter_basis import MOST, shared
    from brittle.stats import wilson

    for percent, model, data in levels:
        bench = Bench(models.model_folder(model), data, None, setup)
        candidates = filter_fit.candidates(bench.model, bench.found, bench.sites)
        for made in candidates.values():
            made.to(bench.model.device)
        choice = filter_search.tune(bench.tuner, filter_search.search(bench.tuner, candidates, limits)[0])
        made, site = choice.made, choice.made.site
        forget, retain = bench.found.forget[site], bench.found.retain[site]
        for split, (accuracy, right, n) in filter_ablation.accuracies(bench.model, bench.tokenizer, made, bench.items).items():
            low, high = wilson(right, n)
            yield {"overlap": percent, "measured": shared(forget, retain, min(MOST, forget.width)), "site": site, "split": split,
                   "ratio": filter_fit.ratios(bench.found)[site], "gated": int(made.gate is not None), "k": made.k,
                   "strength": made.strength, "status": choice.status, "accuracy": accuracy, "low": low, "high": high, "n": n,
                   "base_accuracy": mcq.accuracy(bench.model, bench.tokenizer, bench.items[split]), "model": model}  # fmt: skip


def plot_pareto(table, name):
    from brittle import plots

    figure, axes = plots.figure("Components of the filter, each at the retain limit", name, columns=2)
    for (basis, gated), colour in zip(dict.fromkeys((r["basis"], r["gated"]) for r in table), plots.CYCLE * 2, strict=False):
        part = [r for r in table if (r["basis"], r["gated"]) == (basis, gated)]
        best = {}
        for r in part:  # the best site of each k
            best[r["k"]] = min(best.get(r["k"], r), r, key=lambda r: r["forget_accuracy"])
        found, style = [best[k] for k in sorted(best)], "-" if gated else "--"
        label = f"{basis}{', gated' if gated else ''}"
        axes[0].plot([r["k"] for r in found], [r["forget_accuracy"] for r in found], style, marker="o", color=colour, label=label)
        axes[1].plot([r["retain_kl"] for r in found], [r["forget_accuracy"] for r in found], "o", color=colour, label=label)
    axes[0].set_xscale("log", base=2)
    for ax, xlabel in zip(axes, ("k", "retain_kl (nats a token)"), strict=True):
        plots.null(ax, None, 0.25, "chance")
        plots.finish(ax, xlabel, "forget_accuracy", integer=False, legend=ax is axes[0])
    return figure


def plot_overlap(table, name):
    from brittle import plots

    figure, axes = plots.figure("What a filter can do against overlap of the sets", name, columns=2)
    for ax, column in zip(axes, ("overlap", "measured"), strict=True):
        for split in ("forget", "retain", "general"):
            part = sorted((r for r in table if r["split"] == split), key=lambda r: r[column])
            low, high = ([abs(r["accuracy"] - r[end]) for r in part] for end in ("low", "high"))
            ax.errorbar([r[column] for r in part], [r["accuracy"] for r in part], yerr=[low, high], marker="o", capsize=3,
                        color=plots.COLOURS[split], label=split)  # fmt: skip
        plots.null(ax, None, 0.25, "chance")
        label = "nominal overlap (%)" if column == "overlap" else "shared principal directions at the site"
        plots.finish(ax, label, "accuracy", integer=False, legend=ax is axes[0])
    return figure


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


def main(
    what: Annotated[str, typer.Argument(help=f"{', '.join(WHAT)}.")],
    model: Annotated[str, typer.Option("--model", help="Model folder or Hugging Face id.")] = "outputs/models/mini-base",
    data: cli.Data = Path("data/mini"),
    outdir: Annotated[Path | None, typer.Option(help="Folder for the results (outputs/<model>__filter/ablation).")] = None,
    filter_dir: Annotated[
        Path | None, typer.Option("--filter", help="attacks: the filter (outputs/<model>__filter/filter).")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", help="components: sites (post_norm; a block costs minutes).")
    ] = None,
    level: Annotated[list[str] | None, typer.Option("--level", help="overlap: PERCENT=MODEL:DATA, repeatable.")] = None,
    retain_limit: Annotated[float, typer.Option(min=1e-6, help="KL on retain text, nats a token.")] = 0.05,
    general_limit: Annotated[float, typer.Option(min=1e-6, help="KL on general text, nats a token.")] = 0.02,
    items: Annotated[int, typer.Option(min=4, help="Questions a split.")] = 60,
    max_samples: cli.MaxSamples = 1200,
    seed: cli.Seed = 0,
    device: cli.Device = "auto",
):
    """Ablations of the filter, and attacks on what is published."""
    from brittle import filter_files, models, results

    if what not in WHAT:
        raise UserError(f"{what}: choose {', '.join(WHAT)}.")
    if what == "overlap" and not level:
        raise UserError(
            "overlap needs --level PERCENT=MODEL:DATA; make each with create_datasets.py --overlap and create_models.py."
        )
    levels = [read_level(text) for text in level or []]
    outdir = outdir or filter_files.folder_of("outputs", model).with_name("ablation")
    folders = {f"level {i}": models.model_folder(m) for i, (_, m, _) in enumerate(levels)} or {
        "model": models.model_folder(model)
    }
    homes = [d for _, _, d in levels] or [data]
    inputs = [
        f for home in homes for f in sorted(home.glob("*.txt")) + sorted(home.glob("mcq_*.jsonl")) if "pretrain" not in f.name
    ]
    setup = {"max_samples": max_samples, "device": device, "seed": seed, "items": items}
    with results.Run(outdir, inputs, folders, seed, {"what": what, "items": items}) as run:
        from brittle import filter_ablation, filters
        from brittle.filter_tuning import Limits

        limits, name = Limits(retain_limit, general_limit), results.model_name(model)
        if what == "overlap":
            table = list(overlap(levels, limits, setup))
            run.figure(plot_overlap(table, f"{len(levels)} models"), "overlap.png")
            run.csv("overlap.csv", OVERLAP, table)
            return
        made = filters.load(filter_dir or filter_files.folder_of("outputs", model)) if what == "attacks" else None
        chosen = site or ["post_norm"] if what == "components" else [made.site] if made else None
        bench = Bench(folders["model"], data, chosen, setup)
        if what == "components":
            table = list(
                filter_ablation.pareto(bench.tuner, bench.tokenizer, bench.found, bench.sites, BASES, limits, bench.items)
            )
            run.figure(plot_pareto(table, name), "pareto.png")
            run.csv("pareto.csv", filter_ablation.PARETO, table)
        elif what == "sites":
            run.csv("sites.csv", filter_ablation.SITES, sites(bench, limits))
        else:
            made.check(bench.model.config).to(bench.model.device)
            run.csv("tokens.csv", filter_ablation.TOKENS, filter_ablation.promoted(bench.model, bench.tokenizer, made))
            run.csv("attacks.csv", filter_ablation.ATTACKS, attacks(bench, made, data))
    print(f"{outdir}: {what}")


if __name__ == "__main__":
    cli.run(main)
