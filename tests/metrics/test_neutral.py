"""Neutral text: KL and NLL against a float64 oracle without padding, intervals over entities, and
the step that measures them.
"""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.record import closing_lines
from brittle.base.tables import read_table
from brittle.metrics import neutral
from brittle.report import verdict
from brittle.unlearning import collapse
from support import tiny
from support.tiny_models import make_model, save, script, texts, write_texts

step = script("neutral_text")


class Fixed:
    """A model whose logits [V] are the same behind every token, but for padding (token 0)."""

    device = "cpu"

    def __init__(self, probabilities):
        self.logits = torch.tensor(probabilities, dtype=torch.float64).log()

    def __call__(self, input_ids, attention_mask):
        logits = self.logits.expand(*input_ids.shape, -1).clone()
        logits[input_ids == 0] = torch.tensor([9.0, -9.0, 0.0, 0.0], dtype=torch.float64)
        return SimpleNamespace(logits=logits)


def test_planted_values_and_padding():
    """Two coins: every predicted token adds the same, padding nothing, however long the rows."""
    a, b = Fixed([0.1, 0.2, 0.3, 0.4]), Fixed([0.4, 0.3, 0.2, 0.1])
    kl = sum(p * math.log(p / q) for p, q in ((0.1, 0.4), (0.2, 0.3), (0.3, 0.2), (0.4, 0.1)))
    totals = neutral.sums(a, b, [[1, 3], [3, 2, 1, 1, 2, 1]], pad_id=0)
    expected = [
        [1, -math.log(0.4), -math.log(0.1), kl],
        [5, *(-2 * math.log(x) - 3 * math.log(y) for x, y in ((0.3, 0.2), (0.2, 0.3))), 5 * kl],
    ]
    assert torch.allclose(totals, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)
    row = neutral.measure(totals, 2, seed=0)
    assert row["n_texts"] == 2 and row["n_tokens"] == 6 and row["kl"] == pytest.approx(kl)
    assert row["nll_change"] == pytest.approx(row["nll_b"] - row["nll_a"])
    assert (row["kl_low"], row["nll_change_low"]) == (None, None)  # two texts are no basis


def test_where_all_texts_move_alike_the_interval_is_the_value():
    """Whatever is drawn: 1 nat a token more, and a divergence of .5. Texts have 4 and 8 tokens."""
    totals = torch.tensor([[4, 8, 12, 2.0], [8, 40, 48, 4.0]] * 3, dtype=torch.float64)
    row = neutral.measure(totals, 6, seed=0)
    for name, value in (("nll_change", 1), ("kl", 0.5)):
        ends = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert ends == pytest.approx([value] * 3)


def test_sums_against_an_oracle_in_float64():
    """One text at a time, so without padding: each position but the last predicts a token."""
    a, b = (tiny.model(seed=seed, dtype=torch.float64) for seed in (0, 1))
    ids = tiny.ids(11, 3)
    totals = neutral.sums(a, b, ids, tiny.PAD)
    for tokens, row in zip(ids, totals, strict=True):
        with torch.no_grad():
            p, q = (m(torch.tensor([tokens])).logits[0, :-1].softmax(-1) for m in (a, b))
        at = torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])
        expected = [
            len(tokens) - 1,
            -p[at].log().sum(),
            -q[at].log().sum(),
            (p * (p / q).log()).sum(),
        ]
        assert row.tolist() == pytest.approx([float(x) for x in expected], rel=1e-9)


def test_no_probability_before_adds_nothing_and_none_now_is_infinite():
    half, sure = [math.log(0.5)] * 2, [0.0, -math.inf]
    row = torch.tensor([[half, half], [sure, sure]])
    assert neutral.kl_of_targets(row[1:], row[:1]).item() == pytest.approx(math.log(2))
    assert neutral.kl_of_targets(row[:1], row[1:]).item() == math.inf
    assert neutral.kl_of_targets(row * math.nan, row).isnan().all()  # broken is not unmoved


def test_the_interval_draws_entities_where_they_are_named():
    """Texts of an entity move together: drawn one by one they would count as thirty."""
    entities = [f"e{number // 10}" for number in range(30)]
    kl = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64).repeat_interleave(10)
    totals = torch.stack([torch.ones(30), torch.zeros(30), kl, kl], 1).double()
    of_texts, of_entities = (neutral.measure(totals, units, 0) for units in (30, entities))
    assert of_texts["kl"] == of_entities["kl"] == 1 and of_texts["nll_change"] == 1
    widths = [row["kl_high"] - row["kl_low"] for row in (of_texts, of_entities)]
    assert widths[1] > 2 * widths[0]
    # of three entities the mean moves in steps of 1/6 between the least and the largest
    assert (of_entities["kl_low"], of_entities["kl_high"]) == (0.5, 1.5)
    assert neutral.measure(totals, ["e0"] * 10 + ["e1"] * 20, 0)["kl_low"] is None


def test_one_limit_for_the_run_and_the_report():
    assert collapse.LIMIT == verdict.LIMIT == neutral.LIMIT == 1.0
    assert collapse.neutral_file is neutral.neutral_file


def test_the_collapse_check_measures_the_same_kl(family, data):
    from brittle.data.batches import encode
    from brittle.models.load import load_model, load_tokenizer

    a, b, tokenizer = (
        load_model(family.base),
        load_model(family.filtered),
        load_tokenizer(family.base),
    )
    lines = (data / "neutral.txt").read_text().splitlines()[: collapse.TEXTS]
    ids = encode(tokenizer, lines, neutral.LENGTH)
    row = neutral.measure(neutral.sums(a, b, ids, tokenizer.pad_token_id), len(ids), 0)
    # the check keeps half precision
    assert collapse.CollapseCheck(a, tokenizer, lines, {}).kl(b) == pytest.approx(
        row["kl"], rel=2e-2, abs=1e-3
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """a, b (unrelated) and a folder of data: neutral texts, one of them of a single word."""
    root = tmp_path_factory.mktemp("neutral")
    save(make_model(), root / "a")
    save(make_model(seed=1), root / "b")
    write_texts(root / "neutral.txt", [*texts(12, 1), "w1"])
    write_texts(root / "retain.txt", texts(5, 2))
    return root


def run(models, outdir, **options):
    step.main(str(models / "a"), str(models / "b"), outdir, device="cpu", **options)
    (row,) = read_table(outdir / "neutral.csv").to_dict("records")
    return row


def test_the_step(models, tmp_path):
    row = run(models, tmp_path / "out", data=models)
    assert row["texts"] == "neutral" and row["n_texts"] == 12
    assert 0 < row["kl_low"] < row["kl"] < row["kl_high"]
    assert f"KL {row['kl']:.3f} nats a token on 12 neutral texts" in closing_lines()[-1]
    record = json.loads((tmp_path / "out" / "neutral.run.json").read_text())
    assert record["settings"]["samples"]["neutral"] == {"texts": 13, "of": 13, "entities": None}
    step.main(str(models / "a"), str(models / "a"), tmp_path / "same", data=models, device="cpu")
    (same,) = read_table(tmp_path / "same" / "neutral.csv").to_dict("records")
    assert same["kl"] == same["nll_change"] == same["kl_high"] == 0
    assert same["nll_a"] == row["nll_a"]


def test_the_step_reads_entities_and_retain_texts_where_there_are_no_others(models, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no neutral\.txt and no retain texts"):
        run(models, tmp_path / "out", data=folder)
    rows = [{"text": text, "entity": f"e{i % 4}"} for i, text in enumerate(texts(8, 2))]
    write_texts(folder / "retain.jsonl", [json.dumps(row) for row in [*rows, {**rows[0]}]])
    row = run(models, tmp_path / "out", data=folder)
    assert row["texts"] == "retain" and row["n_texts"] == 9
    record = json.loads((tmp_path / "out" / "neutral.run.json").read_text())
    assert record["settings"]["samples"]["retain"]["entities"] == 4
