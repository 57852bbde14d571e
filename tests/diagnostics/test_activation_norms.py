"""Steps 4 and 5: identity, hand-computed means, padding and batch size, families, bad input."""

import json

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from support.tiny_models import (
    FAMILIES,
    make_model,
    make_tokenizer,
    save,
    script,
    texts,
    write_texts,
)

norms, plots = script("collect_activation_norms"), script("plot_activation_norms")
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("norms")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    write_texts(root / "forget.txt", texts(21, seed=1))
    write_texts(root / "retain.txt", texts(17, seed=2))
    return root


def run(root, outdir, b="b", **options):
    options = {
        "forget": root / "forget.txt",
        "retain": root / "retain.txt",
        "device": "cpu",
    } | options
    norms.main(str(root / "a"), str(root / b), outdir / "activation_stats", **options)
    return read_table(outdir / "activation_stats/activation_stats.csv")


def test_header_and_rows(root, tmp_path):
    table = run(root, tmp_path)
    assert list(table) == COLUMNS
    assert list(zip(table.layer, table.split, strict=True)) == [
        (k, s) for k in range(4) for s in ("forget", "retain")
    ]


def test_a_against_itself_is_zero(root, tmp_path):
    table = run(root, tmp_path, b="a")
    assert (table[["mean_dh_L1", "mean_dh_L2"]] == 0).all(axis=None)
    assert (table.model_a_norm_L1 == table.model_b_norm_L1).all() and (
        table.model_a_norm_L2 == table.model_b_norm_L2
    ).all()


def test_batch_size_and_padding_change_nothing(root, tmp_path):
    """One text a batch has no padding at all."""
    alone, together = (
        run(root, tmp_path / "1", batch_size=1),
        run(root, tmp_path / "2", batch_size=64),
    )
    assert abs(alone[COLUMNS[2:]] / together[COLUMNS[2:]] - 1).max(axis=None) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_against_hidden_states(family):
    """Layers 0 to N-1 are transformers' hidden_states; layer N comes before the final norm, so it
    is not.
    """
    a, b, tokenizer = make_model(family), make_model(family, seed=1), make_tokenizer()
    ids = tokenizer(texts(5))["input_ids"]
    found = norms.norm_means(a, b, ids, tokenizer.pad_token_id, 2)
    with torch.no_grad():
        states = [
            [m(torch.tensor([i]), output_hidden_states=True).hidden_states for i in ids]
            for m in (a, b)
        ]
    for layer in range(3):
        h_a, h_b = (torch.cat([s[layer][0] for s in of]).double() for of in states)
        wanted = [h.norm(p, dim=-1).mean() for h in (h_a, h_b, h_b - h_a) for p in (1, 2)]
        assert torch.allclose(found[layer], torch.stack(wanted), rtol=1e-5)
    assert len(found) == 4 and bool((found > 0).all())


def test_scaled_embeddings_scale_their_norms(root, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3)
    save(model, tmp_path / "b")
    row = run(root, tmp_path, b=tmp_path / "b").iloc[0]
    assert row.model_b_norm_L2 == pytest.approx(3 * row.model_a_norm_L2, rel=1e-5)
    assert row.mean_dh_L1 == pytest.approx(2 * row.model_a_norm_L1, rel=1e-5)


def test_a_sample_is_drawn_by_seed(root, tmp_path):
    """--max-samples draws texts (not the first ones), and the record says by which seed."""
    from brittle.data.items import draw_texts

    drawn = run(root, tmp_path / "1", max_samples=5, seed=3)
    chosen = draw_texts(root / "forget.txt", 5, 3).texts
    assert chosen != (root / "forget.txt").read_text(encoding="utf-8").splitlines()[:5]
    write_texts(tmp_path / "few.txt", chosen)
    few = run(root, tmp_path / "2", forget=tmp_path / "few.txt")
    assert few[few.split == "forget"].equals(drawn[drawn.split == "forget"])
    record = json.loads((tmp_path / "1/activation_stats/activation_stats.run.json").read_text())
    assert record["seed"] == 3 and record["settings"]["samples"] == {
        "forget": {"texts": 5, "of": 21, "entities": None},
        "retain": {"texts": 5, "of": 17, "entities": None},
        "seed": 3,
    }


def test_long_texts_are_cut_and_counted(root, tmp_path, capsys):
    write_texts(tmp_path / "long.txt", [" ".join(["w1"] * 200), "w1 w2 w3"])
    run(root, tmp_path, forget=tmp_path / "long.txt")
    assert "1 of 2 forget texts are longer than 64 tokens" in capsys.readouterr().err


def test_bad_input(root, tmp_path):
    write_texts(tmp_path / "short.txt", ["w1"])
    with pytest.raises(UserError, match="forget texts hold no tokens"):
        run(root, tmp_path, forget=tmp_path / "short.txt")
    with pytest.raises(UserError, match="reads at most 64"):
        run(root, tmp_path, max_length=65)
    save(make_model(hidden_size=16), tmp_path / "narrow")
    with pytest.raises(UserError, match="differ in hidden_size"):
        run(root, tmp_path, b=tmp_path / "narrow")
    with pytest.raises(UserError, match="Step 4 makes it"):
        plots.main("a", "b", tmp_path / "activation_plots")
    assert not (tmp_path / "activation_stats").exists() or not list(
        (tmp_path / "activation_stats").iterdir()
    )


def test_figures(root, tmp_path):
    run(root, tmp_path)
    plots.main("a", "b", tmp_path / "activation_plots")
    found = {p.name for p in (tmp_path / "activation_plots").glob("*.png")}
    assert found == {
        "activation_norms_forget.png",
        "activation_norms_retain.png",
        "activation_diffs.png",
    }
