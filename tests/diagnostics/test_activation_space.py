"""Steps 9, 11, 12 and the basin: covariances, row spaces, Jacobians and lines against closed forms
and second libraries.
"""

import json
import math

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.tables import read_table
from brittle.data.batches import pad
from brittle.data.items import subset
from brittle.diagnostics import covariance as covariance_module
from brittle.diagnostics import inputs
from support.tiny_models import (
    FAMILIES,
    make_model,
    make_tokenizer,
    save,
    script,
    texts,
    write_texts,
)

covariance, row_space = (
    script("activation_covariance_analysis"),
    script("row_space_projection_analysis"),
)
lipschitz, basin = script("local_lipschitzness_analysis"), script("basin_analysis")
separation = script("activation_separation_analysis")
UP = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """a, b (unrelated), edited: a plus a rank-2 update of one MLP matrix; texts of two
    vocabularies.
    """
    root = tmp_path_factory.mktemp("space")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    model = make_model()
    with torch.no_grad():
        model.get_parameter(UP).add_((draw(64, 2) @ draw(2, 32, seed=1)).float() * 0.1)
    save(model, root / "edited")
    write_texts(root / "forget.txt", texts(24, 1, words=[f"w{i}" for i in range(15)]))
    write_texts(root / "retain.txt", texts(24, 2, words=[f"w{i}" for i in range(20, 35)]))
    return root


def run(module, name, root, outdir, b="b", **options):
    options = {
        "forget": root / "forget.txt",
        "retain": root / "retain.txt",
        "device": "cpu",
    } | options
    module.main(str(root / "a"), str(root / b), outdir, **options)
    table = read_table(outdir / name)
    assert list(table) == module.COLUMNS
    return table


def test_moments_of_one_pass_are_the_unbiased_covariance_of_all_tokens():
    from brittle.models.hooks import residual_stream

    model, ids = make_model(), make_tokenizer()(texts(13))["input_ids"]
    dealt = torch.arange(13) * 5 % 6
    streams = [covariance_module.Streams(model, ids, 1, 4) for _ in range(2)]
    total, square, means = covariance_module.moments(streams[0], dealt)
    found = covariance_module.by_token(streams[1], dealt, True)[1]
    with torch.no_grad():
        streams = [residual_stream(model, pad([i], 1)) for i in ids]
    for layer in range(4):
        every = torch.cat([s[layer][0] for s in streams]).double()
        wanted = torch.cov(every.T)
        assert torch.allclose(
            covariance_module.covariance(
                total[:, layer].sum(0), square[:, layer].sum(0), len(every)
            ),
            wanted,
            rtol=1e-4,
            atol=1e-7,
        )
        assert torch.allclose(
            means[:, layer], torch.stack([s[layer][0].mean(0) for s in streams]).double(), atol=1e-5
        )
        exact = torch.linalg.eigvalsh(wanted).flip(0)
        assert torch.allclose(found[layer]["values"], exact, rtol=1e-4, atol=1e-6 * float(exact[0]))
        for split, half in enumerate(covariance_module.HALVES):
            inside = [int(p) in half for p in dealt]
            for side in (True, False):
                rows = [s[layer][0] for s, x in zip(streams, inside, strict=True) if x == side]
                own = torch.linalg.eigvalsh(torch.cov(torch.cat(rows).double().T)).flip(0)
                null = found[layer]["halves"][split, 0 if side else 1]
                assert torch.allclose(null, own, atol=1e-6 * float(exact[0]))
        again = covariance_module.resampled(
            *(found[layer][k].double() for k in ("energy", "linear", "count")),
            torch.ones(1, 13).double(),
        )
        assert torch.allclose(again[0], exact, rtol=1e-3, atol=1e-5 * float(exact[0]))


def test_streams_are_the_same_when_read_again(monkeypatch):
    model, ids = make_model(), make_tokenizer()(texts(9))["input_ids"]
    dealt = torch.arange(9) % 6
    kept = covariance_module.by_token(covariance_module.Streams(model, ids, 1, 4), dealt, False)[1]
    monkeypatch.setattr(covariance_module, "KEPT", 0)
    for one, other in zip(
        kept,
        covariance_module.by_token(covariance_module.Streams(model, ids, 1, 4), dealt, False)[1],
        strict=True,
    ):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("shape", [(40, 6), (6, 20)])
def test_resampled_spectrum_is_exact_to_first_order(shape):
    x, tilt = draw(*shape) * torch.arange(1, shape[1] + 1), draw(1, shape[0], seed=1).sign()
    found = covariance_module.by_text(x, torch.arange(len(x)) % 6, True)
    wanted = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)[: min(shape)]
    assert torch.allclose(found["values"], wanted, atol=1e-9 * float(wanted[0])) and found[
        "halves"
    ].shape == (5, 2, min(shape))
    parts = [found[key].double() for key in ("energy", "linear", "count")]

    def error(size):
        weights = 1 + size * tilt
        centred = x - weights @ x / weights.sum()
        exact = torch.linalg.eigvalsh((centred.T * weights) @ centred / (weights.sum() - 1)).flip(
            0
        )[: min(shape)]
        moved = covariance_module.resampled(*parts, weights)[0]
        assert float(moved.sum()) == pytest.approx(
            float(exact.sum()), rel=1e-5
        )  # the trace is exact
        return float((moved - exact).norm() / (exact - wanted).norm())

    assert error(0.02) < 0.1 and error(0.01) < 0.7 * error(0.02)  # what is left is of second order


def test_wasserstein_is_scipys():
    from scipy.stats import wasserstein_distance

    one, other = (
        draw(1, 30).abs().sort(descending=True)[0],
        draw(1, 30, seed=1).abs().sort(descending=True)[0],
    )
    wanted = wasserstein_distance(one[0] / one.mean(), other[0] / other.mean())
    assert float(covariance_module.wasserstein(one, other)) == pytest.approx(wanted)
    assert float(covariance_module.wasserstein(one, 7 * one)) == pytest.approx(0, abs=1e-12)


def test_covariance_of_identical_models(root, tmp_path):
    table = run(covariance, "covariance.csv", root, tmp_path, b="a")
    zero = [c for c in table if c.startswith(("wasserstein", "selectivity"))]
    assert (table[zero].fillna(0) == 0).all(axis=None) and len(table) == 16
    assert (
        table.model_a_effective_rank.equals(table.model_b_effective_rank)
        and (table.null_wasserstein > 0).all()
    )


def test_covariance_of_different_models(root, tmp_path):
    table = run(covariance, "covariance.csv", root, tmp_path)
    assert (table.wasserstein > 0).all() and (table.selectivity_ratio > 0).all()
    for name in ("wasserstein", "selectivity_ratio"):
        assert (table[f"{name}_low"] < table[name]).all() and (
            table[name] < table[f"{name}_high"]
        ).all()
    assert (table.model_a_spectral_entropy < 3.47).all()
    assert (
        run(covariance, "covariance.csv", root, tmp_path / "1", batch_size=1)
        .drop(columns="seed")
        .equals(
            run(covariance, "covariance.csv", root, tmp_path / "2", batch_size=1).drop(
                columns="seed"
            )
        )
    )


def test_covariance_needs_texts(root, tmp_path):
    write_texts(tmp_path / "one.txt", ["w1 w2"])
    with pytest.raises(UserError, match="at least 6 texts; the forget file gives 1"):
        run(covariance, "covariance.csv", root, tmp_path, forget=tmp_path / "one.txt")


def test_random_update_gets_the_random_share():
    """Isotropic inputs and a random dW: k / d of the energy, selectivity 1."""
    w, found = draw(40, 30), {}
    found = dict(row_space.directions([("m", w, w + draw(40, 30, seed=1))], 5, "cpu"))["m"]
    sums = {}
    for seed, split in enumerate(("forget", "retain")):
        energies = inputs.Energies(found, 50)
        energies.add(draw(4000, 30, seed=10 + seed), torch.arange(50).repeat_interleave(80))
        sums[split] = energies.sums
    read, units = row_space.Read(sums, dict.fromkeys(sums, 4000)), dict.fromkeys(sums, 50)
    for row in row_space.rows("h.0.mlp.x", read, found, [1, 5], units, 0):
        assert (
            row["projection_ratio_low"] - 0.01
            < row["null_projection_ratio"]
            == row["k"] / 30
            < row["projection_ratio_high"] + 0.01
        )
        assert row["selectivity_ratio"] == pytest.approx(1, abs=0.12) and row["n_tokens"] == 4000
        assert (
            row["selectivity_ratio_low"] < row["selectivity_ratio"] < row["selectivity_ratio_high"]
        )


def test_inputs_in_the_planted_direction():
    """dW reads one direction, and the forget inputs have nothing else."""
    w, v = draw(20, 12), torch.nn.functional.normalize(draw(12, seed=1), dim=0)
    found = dict(row_space.directions([("m", w, w + torch.outer(draw(20, seed=2), v))], 4, "cpu"))[
        "m"
    ]
    assert found["rank"] == 1
    energies = inputs.Energies(found, 3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    x = draw(3, 3, 1, seed=4) * v
    x[~mask] = 100  # padding must not count
    energies.watch(None, [x], mask, torch.tensor([2, 0, 1])[:, None].expand(3, 3))
    assert torch.allclose(energies.sums[:, 0], energies.sums[:, 8], rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_row_space_of_every_family(family, root, tmp_path, monkeypatch):
    # transformers picks a tokenizer class by model type, and Qwen2's does not read a word-level
    # vocabulary
    monkeypatch.setattr("brittle.models.load.load_tokenizer", lambda folder: make_tokenizer())
    a, b = (
        save(make_model(family), tmp_path / "a"),
        save(make_model(family, seed=1), tmp_path / "b"),
    )
    options = {
        "forget": root / "forget.txt",
        "retain": root / "retain.txt",
        "device": "cpu",
        "max_samples": 6,
    }
    row_space.main(a, b, tmp_path / "o", **options)
    table = read_table(tmp_path / "o/projection.csv")
    assert (
        set(table.layer) == {0, 1, 2}
        and table.projection_ratio.between(0, 1).all()
        and (table.k <= 20).all()
    )
    n_matrices = {"gpt_neox": 6, "gpt2": 6, "phi": 6, "olmoe": 3 * (1 + 3 * 4)}.get(family, 9)
    assert table.name.nunique() == n_matrices
    assert (
        json.loads((tmp_path / "o/projection.run.json").read_text())["settings"]["without_input"]
        == []
    )
    if family == "olmoe":  # each token reaches two of four experts
        reached = table[
            (table.split == "forget") & table.name.str.contains("down") & (table.layer == 1)
        ]
        assert (
            reached.groupby("name").n_tokens.first().sum()
            == 2 * table[table.split == "forget"].n_tokens.max()
        )


def test_inputs_are_those_of_the_matrix(root):
    """The captured energies of the down-projection are those of GELU(up-projection), computed by
    hand.
    """
    model, ids = make_model(), make_tokenizer()(texts(5))["input_ids"]
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    w = model.get_parameter(name).detach()
    found = dict(row_space.directions([(name, w, w + draw(32, 64).float())], 3, "cpu"))[name]
    energies = inputs.Energies(found, 5)
    inputs.collect(model, {name: (inputs.owner(model, name)[0], energies)}, ids, 1, 2)
    seen, handle = (
        {},
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _m, args: seen.__setitem__("x", args[0])
        ),
    )
    for i, text in enumerate(ids):
        with torch.no_grad():
            model(torch.tensor([text]))
        assert float(energies.sums[i, -1]) == pytest.approx(
            float(seen["x"].square().sum()), rel=1e-4
        )
    handle.remove()


def test_inputs_of_stacked_experts():
    """What each expert's down-projection is said to read gives, summed with the router's weights,
    the experts' output.
    """
    model, hidden = make_model("olmoe"), draw(9, 32).float()
    module, expert = inputs.owner(model, "model.layers.1.mlp.experts.down_proj[3]")
    assert expert == (3, True) and inputs.owner(
        model, "model.layers.1.mlp.experts.2.up_proj.weight"
    )[1] == (2, False)
    chosen, weights = (
        torch.tensor([[i % 4, (i + 1) % 4] for i in range(9)]),
        draw(9, 2, seed=1).float(),
    )
    total = torch.zeros(9, 32)
    with torch.no_grad():
        for e in range(4):
            tokens, x = inputs.routed(module, e, True, hidden, chosen)
            total[tokens] += (x @ module.down_proj[e].T) * (weights * (chosen == e)).sum(1)[
                tokens, None
            ]
        assert torch.allclose(total, module(hidden, chosen, weights), atol=1e-6)


def test_row_space_files(root, tmp_path):
    same = run(row_space, "projection.csv", root, tmp_path / "1", b="a")
    assert (same[row_space.COLUMNS[3:-3]] == 0).all(axis=None) and len(same) == 12
    table = run(row_space, "projection.csv", root, tmp_path / "2", b="edited")
    assert set(table[table.name == UP].k) == {1, 2} and (table[table.name == UP]["rank"] == 2).all()
    assert (table[table.name != UP].k == 0).all()
    with pytest.raises(UserError, match="numbers from 1 on"):
        run(row_space, "projection.csv", root, tmp_path / "3", k="0")


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "phi", "olmoe"])
def test_jacobian_norm_against_the_whole_jacobian(family):
    model = make_model(family)
    model.set_attn_implementation("eager")
    model.requires_grad_(False)
    ids = make_tokenizer()(["w1 w2 w3", "w4 w5 w6 w7 w8"])["input_ids"]
    batch = pad(ids, 1)
    e, mask = model.get_input_embeddings()(batch["input_ids"]), batch["attention_mask"]
    found = lipschitz.jacobian_norm(model, e, mask, draw(*e.shape).float(), 60)
    for i, text in enumerate(ids):
        one = e[i : i + 1, : len(text)]
        j = torch.autograd.functional.jacobian(
            lambda x: lipschitz.last_logits(model, x, torch.ones(1, x.shape[1]).long())[0], one
        )
        exact = torch.linalg.matrix_norm(j.flatten(1).double(), 2)
        assert float(found[i]) == pytest.approx(float(exact), rel=0.02)
        assert float(found[i]) <= float(exact) * (1 + 1e-4)


def test_sampled_slopes_stay_below_the_jacobian_and_settle():
    """For small eps the slope is linear: no direction beats the largest singular value, and eps
    does not matter.
    """
    model = make_model()
    model.set_attn_implementation("eager")
    batch = pad(make_tokenizer()(texts(4))["input_ids"], 1)
    e, mask = model.get_input_embeddings()(batch["input_ids"]).detach(), batch["attention_mask"]
    drawn = lipschitz.directions([0, 1, 2, 3], e.shape, 6, 0, "x")
    slopes, variance = lipschitz.sampled(model, e, mask, drawn, [0.01, 0.02])
    top = lipschitz.jacobian_norm(model, e, mask, drawn[0], 40)
    assert bool((slopes[0.01] < top).all()) and torch.allclose(
        slopes[0.01], slopes[0.02], rtol=0.05
    )
    assert torch.allclose(variance[0.02], 4 * variance[0.01], rtol=0.1)


def test_each_text_has_its_own_directions():
    alone = lipschitz.directions([3], (1, 4, 8), 2, 0, "x")
    assert torch.equal(lipschitz.directions([5, 3], (2, 6, 8), 2, 0, "x")[:, 1:, :4], alone)


def test_lipschitz_files(root, tmp_path):
    options = {"max_samples": 4, "epsilon": "0.05", "iterations": 2}
    table = run(lipschitz, "lipschitz.csv", root, tmp_path, b="a", **options)
    a, b = (
        table[table.model == m].drop(columns="model").reset_index(drop=True)
        for m in ("model_a", "model_b")
    )
    assert (
        a.equals(b)
        and list(a.split) == ["forget", "retain", "shuffled"]
        and (table.n_texts == 4).all()
    )
    small = run(lipschitz, "lipschitz.csv", root, tmp_path / "2", batch_size=1, **options)
    numbers = [c for c in table if c.endswith(("mean", "low", "high"))]
    assert (
        (
            small[numbers]
            - run(lipschitz, "lipschitz.csv", root, tmp_path / "3", **options)[numbers]
        ).abs()
        <= 1e-3 * small[numbers].abs() + 1e-9
    ).all(axis=None)
    with pytest.raises(UserError, match="positive numbers"):
        run(lipschitz, "lipschitz.csv", root, tmp_path, epsilon="0,1")


def test_line_between_models(root, tmp_path):
    from brittle.models.logprobs import nll

    table = run(basin, "basin.csv", root, tmp_path, points=5)
    ids = make_tokenizer()((root / "forget.txt").read_text().split("\n")[:-1])["input_ids"]
    part = table[table.split == "forget"]
    with torch.no_grad():
        for model, row in ((make_model(), part.iloc[0]), (make_model(seed=1), part.iloc[-1])):
            assert row.nll == pytest.approx(
                float(nll(model, pad(ids, 1))), rel=1e-4
            ) and row.barrier == pytest.approx(0, abs=1e-12)
    assert list(part.alpha) == [0, 0.25, 0.5, 0.75, 1] and part.null_nll.iloc[0] == part.nll.iloc[0]
    assert set(json.loads((tmp_path / "summary.json").read_text())) == {"forget", "retain"}


def test_line_from_a_model_to_itself_is_flat(root, tmp_path):
    table = run(basin, "basin.csv", root, tmp_path, b="a", points=3)
    assert (
        (table.barrier == 0).all()
        and table.nll.equals(table.null_nll)
        and table.groupby("split").nll.nunique().eq(1).all()
    )


def test_random_end_is_as_far():
    start = {"x": draw(5, 7).float(), "y": draw(3).float()}
    end = {"x": start["x"] + 2, "y": start["y"].clone()}
    wanted = float((end["x"] - start["x"]).norm())
    made = basin.random_end(start, end, basin.lengths(start, end), 0)
    assert float((made["x"] - start["x"]).norm()) == pytest.approx(
        wanted, rel=1e-5
    ) and not torch.equal(made["x"], start["x"] + 2)
    assert torch.equal(made["y"], start["y"])


def test_barrier_of_a_parabola():
    """A loss of alpha (1 - alpha) has the barrier alpha (1 - alpha)."""
    alphas = [0.0, 0.25, 0.5, 0.75, 1.0]
    loss = (
        torch.tensor([a * (1 - a) + 1 + a for a in alphas], dtype=torch.float64)[:, None].expand(
            5, 6
        )
        * 4
    )
    rows = list(
        basin.rows(
            alphas,
            {"forget": loss},
            [{"forget": loss}] * 6,
            {"forget": range(6)},
            {"forget": [[1] * 5] * 6},
            {"forget": 6},
            0,
        )
    )
    assert [r["barrier"] for r in rows] == pytest.approx([a * (1 - a) for a in alphas], abs=1e-12)
    assert all(r["n_tokens"] == 24 for r in rows)


def test_null_of_a_few_texts_is_added_to_the_nll_of_all():
    """Model A has 2 nats a token over all texts, 1 over the two drawn ones, which are longer. Five
    directions add 0.1 to 0.5 nats a token to these at alpha 1: their mean is 0.3.
    """
    line = torch.tensor([[8.0, 8.0, 16.0, 8.0, 16.0, 8.0]] * 2, dtype=torch.float64)
    drawn = {"forget": [1, 3]}
    start = line[0, drawn["forget"]]
    nulls = [
        {"forget": torch.stack([start, start + 8 * added])} for added in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]
    ids = {"forget": [[1] * 5, [1] * 9, [1] * 5, [1] * 9, [1] * 5, [1] * 5]}
    first, last = basin.rows([0.0, 1.0], {"forget": line}, nulls, drawn, ids, {"forget": 6}, 0)
    assert first["null_nll"] == first["nll"] == first["null_nll_low"] == 2
    assert last["null_nll"] == pytest.approx(2.3)
    # Student's t with 4 degrees of freedom, for a further draw
    half = 2.776445 * 0.025**0.5 * 1.2**0.5
    assert last["null_nll_high"] - last["null_nll"] == pytest.approx(half, rel=1e-6)


def test_random_directions_read_a_drawn_part_of_the_texts(root, tmp_path, monkeypatch):
    read, forget = [], []
    walk = basin.walk

    def noted(model, start, end, alphas, ids, *rest):
        read.append((len(alphas), {split: len(texts) for split, texts in ids.items()}))
        forget.append(ids["forget"])
        return walk(model, start, end, alphas, ids, *rest)

    monkeypatch.setattr(basin, "walk", noted)
    monkeypatch.setattr(basin, "NULL_TEXTS", 7)
    table = run(basin, "basin.csv", root, tmp_path, points=2)
    few = {"forget": 7, "retain": 7}
    assert read == [(2, {"forget": 24, "retain": 24}), (1, few), *[(1, few)] * basin.DIRECTIONS]
    assert forget[1] == subset(forget[0], 7) != forget[0][:7]
    assert (table.n_texts == 24).all() and (table.null_nll >= 0).all()


def planted_rows(module, effect):
    """Rows of a step's CSV: 1 where model A alone decides, `effect` where the change does."""
    of_a = ("model_a", "null", "length", "bow")
    for layer in (0, 1):
        for split in ("forget", "retain"):
            for model in ("model_a", "model_b"):
                row = dict.fromkeys(module.COLUMNS, effect)
                fixed = row.keys() if model == "model_a" and "model" in row else ()
                row |= {c: 1.0 for c in row if c in fixed or c.startswith(of_a)}
                about = {"layer": layer, "split": split, "model": model, "unit": "token"}
                about |= {"k": 5, "name": f"m{layer}", "eps": 0.1}
                yield row | {c: about[c] for c in row if c in about}


@pytest.mark.parametrize(
    ("module", "more"),
    [(covariance, ()), (separation, ()), (row_space, (5,)), (lipschitz, ())],
    ids=["covariance", "separation", "row_space", "lipschitz"],
)
def test_a_small_and_a_large_change_are_drawn_on_the_same_axes(module, more):
    """First use 54: side by side a patch looked as large as a retrain."""
    from brittle.base import figures

    axes = []
    for effect in (0.2, 0.95):
        figure = module.plot(list(planted_rows(module, effect)), "a → b", *more)
        axes.append(figures.y_axes(figure))
        figures.plt.close(figure)
    assert axes[0] == axes[1]


def test_ratios_keep_their_axis_until_a_line_leaves_it():
    from brittle.base import figures

    figure, (axis,) = figures.figure("x", "y")
    axis.plot([0, 1], [0.5, 2.0])
    figures.as_ratio(axis, 0.1, 10)
    assert axis.get_yscale() == "log" and axis.get_ylim() == (0.1, 10)
    axis.plot([0, 1], [math.nan, 300.0])
    figures.as_ratio(axis, 0.1, 10)
    assert axis.get_ylim() == pytest.approx((0.1, 330))
    figures.plt.close(figure)
