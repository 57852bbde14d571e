"""Are the changes in the MLPs (key-value memories, Geva et al. 2021) or in attention (routing)?

    uv run experiment/analyze_mlp_vs_attn.py --model-a A --model-b B \
        --outdir outputs/A__to__B/mlp_attn_analysis

Reads ../param_stats/per_layer.csv. `mlp_attn_ratio` is the quotient of the *relative* changes, so
that a group does not lead because it holds more weights; 1 is no preference. It is empty where
attention did not change at all.
"""

from brittle.base import command, options

COLUMNS = [
    "layer",
    "mlp_dW_fro_layer",
    "attn_dW_fro_layer",
    "mlp_dW_fro_layer_rel",
    "attn_dW_fro_layer_rel",
    "mlp_attn_ratio",
]


def rows(layers):
    """A row a block from per_layer.csv; where a model lacks a group, its fields are empty."""
    from brittle.base.tables import ratio

    values = {(r["layer"], r["group"]): r for r in layers}

    def value(layer, group, column):
        number = values.get((layer, group), {}).get(column)
        if number is None or number != number:  # pandas reads an empty field as NaN
            return None
        return number

    for layer in sorted({layer for layer, _ in values}):
        row = {"layer": layer}
        for column in ("dW_fro_layer", "dW_fro_layer_rel"):
            row |= {f"{group}_{column}": value(layer, group, column) for group in ("mlp", "attn")}
        row["mlp_attn_ratio"] = ratio(row["mlp_dW_fro_layer_rel"], row["attn_dW_fro_layer_rel"])
        yield row


def plot(table, names):
    import pandas as pd

    from brittle.base import figures

    table = pd.DataFrame(table, columns=COLUMNS).astype(float)
    fig, (left, right) = figures.figure("MLP against attention", names, columns=2)
    for group in ("mlp", "attn"):
        figures.line(left, table.layer, table[f"{group}_dW_fro_layer_rel"], group)
    figures.finish(left, "layer", "dW_fro_layer_rel", reach=figures.APART)
    figures.line(right, table.layer, table.mlp_attn_ratio, "mlp_attn_ratio", colour="model_a")
    figures.null(right, table.layer, 1.0, "no preference")
    figures.finish(right, "layer", "mlp_attn_ratio", reach=1.5)
    return fig


def main(model_a: options.ModelA, model_b: options.ModelB, outdir: options.Outdir):
    """The change of the MLPs over the change of attention, block by block."""
    from brittle.base import figures
    from brittle.base.record import Run
    from brittle.base.tables import read_table
    from brittle.diagnostics.common import neighbour

    source = neighbour(outdir, "1")
    with Run(outdir, inputs=[source]) as run:
        layers = read_table(source, ["layer", "group", "dW_fro_layer", "dW_fro_layer_rel"])
        table = list(rows(layers.to_dict("records")))
        run.figure(plot(table, figures.pair(model_a, model_b)), "mlp_attn_ratio.png")
        run.csv("mlp_attn_summary.csv", COLUMNS, table)
    from brittle.report import results

    results.say("6", outdir)


if __name__ == "__main__":
    command.run(main)
