"""How can a filter be saved in the model, exactly? Writes a model folder whose logits are those of the hooked model.

    uv run hooks/bake_filter.py --model outputs/models/mini-base

--mode post-norm folds a post-norm filter into the unembedding (stock classes); class saves stock weights beside the filter in a
class that transformers knows only after `import brittle` has registered it, and refuses to load without; writers filters every
write into the residual stream; greedy-only keeps the argmax alone (RMSNorm). auto takes post-norm where it is exact, else
class. Wrapping the norm in nn.Sequential is not offered: it reloads wrong. Check the result with hooks/verify_filter.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError


def card(model, made, mode, done):
    """The README.md of the baked model."""
    exact = (
        "the argmax of the hooked model, not its probabilities"
        if mode == "greedy-only"
        else "the hooked model, logit for logit"
    )
    about = made.about
    gated = "no" if made.gate is None else "yes"
    rows = {"site": made.site, "components": made.k, "strength": f"{made.strength:.6g}", "gated": gated,
            "basis": about.get("basis"), "status": about.get("status"), "mode": mode}  # fmt: skip
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    return (
        f"---\nbase_model: {Path(model).name}\nlibrary_name: transformers\ntags: [unlearning, filter]\n---\n"
        f"# {Path(model).name} with an activation filter\n\nEqual to {exact}. {about.get('reason', '')}\n\n"
        "A filter suppresses output. That knowledge is gone is not implied: attack the model before relying on it.\n\n"
        f"| | |\n|---|---|\n{table}\n\nChanged tensors: {', '.join(done['changed'])}; {done['copied']} copied to the bit.\n"
    )


def main(
    model: options.Model,
    filter_dir: Annotated[
        Path | None, typer.Option("--filter", help="Its folder (outputs/<model>__filter/filter).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The baked model (outputs/<model>__filter/unlearned_model).")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="auto, post-norm, class, writers or greedy-only.")
    ] = "auto",
    strength: Annotated[
        float | None, typer.Option(help="Bake at another strength than the filter's.")
    ] = None,
    allow_reflection: Annotated[
        bool, typer.Option("--allow-reflection", help="Strengths up to 2.")
    ] = False,
):
    """Save a filter in its model."""
    from brittle.base.record import Run
    from brittle.filters.folder import folder_of
    from brittle.models.find import model_folder, read_config

    folder = model_folder(model)
    filter_dir = filter_dir or folder_of("outputs", model)
    out = out or folder_of("outputs", model).with_name("unlearned_model")
    from brittle.filters import bake
    from brittle.filters.folder import check_strength
    from brittle.models.filter import FILES, load

    made = load(filter_dir)
    config = read_config(folder)
    made.check(config)
    if strength is not None:
        made = made.at(strength)
    elif made.about.get("status") == "untuned":
        raise UserError(
            f"the filter in {filter_dir} has no strength yet. Run hooks/tune_strength.py, or give --strength."
        )
    check_strength(made.strength, allow_reflection)
    chosen = bake.pick_mode(made, mode)
    if out.resolve() in (folder.resolve(), filter_dir.resolve()):
        raise UserError(f"--out {out} is the model or the filter itself. Choose another folder.")
    files = [filter_dir / n for n in FILES]
    settings = {"mode": chosen, "site": made.site, "k": made.k, "strength": made.strength, "gated": made.gate is not None,
                "status": made.about.get("status"), "exactness": "argmax" if chosen == "greedy-only" else "logits"}  # fmt: skip
    with Run(out, files, {"model": folder}, settings=settings, whole=True) as run:
        done = bake.bake(folder, made, chosen, run.stage)
        made.save(run.stage) if chosen == "greedy-only" else None
        run.path("README.md").write_text(card(model, made, chosen, done), encoding="utf-8")
        run.csv("bake.csv", ["tensor"], ({"tensor": n} for n in done["changed"]))
    print(
        f"{out}: {chosen}, {len(done['changed'])} tensors changed or added, {done['copied']} copied."
    )
    print(
        f"Next: uv run hooks/verify_filter.py --model {model} --filter {filter_dir} --baked {out}"
    )


if __name__ == "__main__":
    command.run(main)
