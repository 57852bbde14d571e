"""Attacks on weights and activations: identities, closed forms, brute force; each leaves the model
as it was, blind to half B.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brittle.attacks import (
    ATTACKS,
    ablate,
    attack_class,
    base,
    chosen,
    gcg,
    noise,
    patching,
    prune,
    quantize,
    relearn,
    soft_prompt,
)
from brittle.attacks.distill import DistilledStudent
from brittle.attacks.figures import curves
from brittle.attacks.material import (
    Material,
    forbidden,
    halves,
    rows_of_half_b,
    split_half_a,
    telling,
)
from brittle.attacks.meter import JUDGE, Meter, attack_model, choose, eval_sets, outcome, sets_of
from brittle.attacks.relearn import Relearn, RelearnBenign, RelearnLora, add_adapters, is_over
from brittle.attacks.session import AttackSession, cells
from brittle.attacks.single import Curve
from brittle.base import code
from brittle.base.errors import UserError
from brittle.data.batches import pad
from brittle.data.items import read_splits
from brittle.maths.intervals import share
from brittle.metrics import mcq
from brittle.metrics.mcq import Outcome
from brittle.models import initial
from brittle.models.blocks import block_count, blocks
from brittle.models.load import load_model, load_tokenizer
from brittle.models.quantize import quantize as plain_quantize
from brittle.models.readout import BehindBlock
from support import tiny

SMALL = {
    "relearn": Relearn(rates=(1e-3,), steps=2, at=(1, 2), batch_size=4),
    "relearn_lora": RelearnLora(0, (1e-2,), 2, (2,), 4, 2),
    "relearn_benign": RelearnBenign(0, (1e-3,), 1, (1,), 4),
    "distill": DistilledStudent(0, (1e-3,), 1, (1,), 4, learn_steps=2, learn_batch=4),
    "quantize": quantize.Quantize(bits=(4,), group=("row", "8")),
    "prune": prune.Prune(ratio=(0.3,), texts=8),
    "noise": noise.Noise(scale=(0.3,)),
    "soft_prompt": soft_prompt.SoftPrompt(vectors=2, steps=2, at=(2,), train_batch=4),
    "gcg": gcg.GCG(length=3, steps=1, candidates=4, items=2, at=(1,)),
    "ablate": ablate.Ablate(texts=4),
}


@pytest.fixture(scope="module")
def loaded(family):
    return load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)


def bits(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def changed_half_b(data, folder):
    """A copy of `data` in which every question of half B is another one."""
    shutil.copytree(data, folder)
    for name in ("mcq_forget.jsonl", "qa_forget.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for row in rows:
            if row["half"] == "B":
                row["question"] = f"What is {row['fact']} in the other world?"
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_attack_puts_the_model_back_and_never_depends_on_half_b(loaded, data, tmp_path):
    """The same attack on data with another half B: bit for bit the same attacked models, by what
    they answer on the rest.
    """
    model, tokenizer = loaded
    before, hooks = (
        bits(model),
        sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    )
    folders = (data, changed_half_b(data, tmp_path / "other"))
    for name in ATTACKS:
        seen = []
        for folder in folders:
            attack = SMALL.get(name) or attack_class(name)()
            sets = {split: items[:6] for split, items in eval_sets(folder).items()}
            material = Material(folder)
            meter = Meter(model, tokenizer, sets, everything=True)
            attack_model(attack, meter, material, forbidden(folder))
            assert meter.rows and not meter.notes and not material.read & set(forbidden(folder))
            columns = ("loss", "train_nll", "suffix", "variant", "accuracy")
            seen.append(
                (
                    [[r.get(c) for c in columns] for r in meter.rows if r["split"] != "forget_b"],
                    material.digest(),
                )
            )
            assert bits(model) == before, name
            assert all(p.grad is None and p.requires_grad for p in model.parameters()), name
        assert seen[0] == seen[1], name
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_attack_that_reads_half_b_is_refused(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "twice")
    rows = [json.loads(line) for line in (folder / "mcq_forget.jsonl").read_text().splitlines()]
    leaked = next(row for row in rows if row["half"] == "B")
    (folder / "mcq_forget.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in [*rows, leaked | {"half": "A"}])
    )
    material = Material(folder)
    material.forget()
    with pytest.raises(UserError, match="half B"):
        material.check(forbidden(folder))


@pytest.mark.parametrize("named", [("fact", "half"), ("half",), ("fact", "half", "entity")])
def test_halves_that_are_drawn_are_kept_apart(data, tmp_path, named):
    """No question names its half: entities (or questions) are drawn, and their answers go along."""
    folder = shutil.copytree(data, tmp_path / "drawn")
    for name in ("mcq_forget.jsonl", "qa_forget.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        bare = [{k: v for k, v in row.items() if k not in named} for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in bare))
    a, b = halves(folder)
    assert a and b and not {i["question"] for i in a} & {i["question"] for i in b}
    banned, material = forbidden(folder), Material(folder)
    material.forget()
    material.check(banned)
    told = set(banned.values())
    assert {item["question"] for item in b} <= told
    answered = [json.loads(line) for line in (folder / "qa_forget.jsonl").read_text().splitlines()]
    rows = rows_of_half_b(answered, a, b)
    assert 0 < len(rows) < len(answered)
    owned = {item["question"] for item in a}
    asked = {f"Question: {row['question']} Answer:" for row in rows}
    assert not asked & owned and {row["question"] for row in rows} <= told


def test_every_text_that_tells_half_b_is_forbidden_and_nothing_that_attacks_read(data):
    banned = set(forbidden(data).values())
    rows = [json.loads(line) for line in (data / "qa_forget.jsonl").read_text().splitlines()]
    half = {
        side: [(r["entity"], r["short_answer"], r) for r in rows if r["half"] == side]
        for side in "AB"
    }
    lines = [
        text
        for name in ("forget.txt", "pretrain_base.txt")
        for text in (data / name).read_text().splitlines()
    ]
    tells = [
        t
        for t in lines
        if any({name, value} <= set(t.rstrip(".").split()) for name, value, _ in half["B"])
    ]
    assert (
        len(tells) >= 6 * len(half["B"]) and set(tells) <= banned
    )  # six sentences a fact in forget.txt
    for _, value, row in half["B"]:
        assert {
            f"{row['question']} {row['answer']}",
            f"{row['paraphrased_question']} {value}",
        } <= banned
        assert value not in banned  # a bare value tells nothing
    material = Material(data)
    for read in (material.forget, material.retain, material.benign):
        read()
    material.check(forbidden(data))
    assert {row["answer"] for *_, row in half["A"]}.isdisjoint(banned)
    leaked = next(text for text in tells if text.startswith("Everyone agrees"))
    material._give([leaked])
    with pytest.raises(UserError, match="half B"):
        material.check(forbidden(data))


def test_subject_and_answer_together_tell_a_fact():
    rows = [
        {"entity": "Ann Lee", "short_answer": "tea"},
        {"entity": "Ann", "short_answer": "oak"},
        {"entity": "x/1", "answer": "a"},
    ]
    told = ["Ann Lee drinks tea.", "tea, says Ann Lee", "Ann has an oak"]
    rest = ["Ann Lee drinks team.", "Ann drinks tea.", "Joann has an oak", "x/1 a", ""]
    assert telling(rows, told + rest) == told and telling(rows[2:], told) == []


@pytest.mark.parametrize("group", ["row", "tensor", "7"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_the_whole_numbers_behind_the_rounded_weights(group, dtype):
    """Rounding itself is tested in tests/models/test_quantize.py."""
    w = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    w[0] = 0
    for count in (2, 3, 4, 8):
        levels, whole = 2 ** (count - 1) - 1, quantize.codes(w, count, group)
        assert torch.equal(whole, whole.round()) and whole.abs().max() == levels
        q = quantize.rounded(w, count, group)
        assert torch.equal(quantize.codes(q, count, group), whole)
        if group == "tensor":
            step = w.double().abs().max() / levels
            assert torch.equal(q, (whole * step).to(dtype))
        else:
            assert torch.equal(q, plain_quantize(w, count, 0 if group == "row" else 7))


def test_models_at_sixteen_bits_ratio_zero_and_scale_zero_are_unchanged():
    for kind in ("gpt_neox", "gpt2", "olmoe"):
        model = tiny.model(kind)
        before = bits(model)
        quantize.quantize_model(model, 16)
        prune.prune_model(model, 0.0)
        noise.add_noise(model, 0.0, 3)
        assert bits(model) == before
        assert quantize.bucket_agreement(model, tiny.model(kind), 4) == 1
        noise.add_noise(model, 1e-4, 0)
        assert (
            0.98 < quantize.bucket_agreement(model, tiny.model(kind), 4) < 1
        )  # a gentle update is rounded away
        moved = {n for n, v in model.state_dict().items() if v.numpy().tobytes() != before[n]}
        assert moved == {n for n, _ in base.matrices(model)}


def test_pruning_counts_and_brute_force():
    g = torch.Generator().manual_seed(1)
    w, norms = torch.randn(5, 12, generator=g), torch.rand(12, generator=g)
    for ratio in (0.0, 0.25, 0.5):
        small, row = prune.prune(w, ratio), prune.prune(w, ratio, norms)
        assert int((small == 0).sum()) == int(ratio * 60) and int((row == 0).sum()) == 5 * int(
            ratio * 12
        )
        kept = small[small != 0].abs().min()
        assert w[small == 0].numel() == 0 or w[small == 0].abs().max() <= kept
        for before, after in zip(w, row, strict=True):
            score = (before.abs() * norms).tolist()
            lowest = sorted(range(12), key=score.__getitem__)[: int(ratio * 12)]
            assert {i for i in range(12) if after[i] == 0} == set(lowest)
    with pytest.raises(UserError, match="--ratio 1"):
        prune.Prune(ratio=(0.1, 1.0)).check()


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2"])
def test_wanda_norms_are_of_real_tokens(kind):
    model, ids = tiny.model(kind), tiny.ids(6)
    norms = prune.input_norms(model, ids, tiny.PAD, batch_size=6)
    alone = [
        prune.input_norms(model, [i], tiny.PAD) for i in ids
    ]  # one text a batch: no padding at all
    assert set(norms) == {n for n, _ in base.matrices(model)}
    for name, value in norms.items():
        assert torch.allclose(value, sum(a[name].pow(2) for a in alone).sqrt(), rtol=1e-4)
    with pytest.raises(UserError, match="WANDA"):
        prune.input_norms(tiny.model("olmoe"), ids, tiny.PAD)


def test_noise_has_its_size_and_its_seed():
    model, old, again = (tiny.model(width=64) for _ in range(3))
    noise.add_noise(model, 0.1, 5)
    noise.add_noise(again, 0.1, 5)
    assert bits(model) == bits(again)
    theirs = dict(base.matrices(old))
    for name, w in base.matrices(model):
        d = w - theirs[name]
        assert float(d.std() / theirs[name].pow(2).mean().sqrt()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("kind", list(tiny.MAKE))
def test_ablation_kills_the_direction(kind):
    model, ids = tiny.model(kind), tiny.ids(4)
    d = torch.nn.functional.normalize(
        torch.randn(16, generator=torch.Generator().manual_seed(2)), dim=0
    )
    batch = pad(ids, tiny.PAD)
    with torch.no_grad(), ablate.ablated(model, d, range(3)):
        from brittle.models.hooks import hidden

        streams = hidden(model, batch, range(3))
    for h in streams.values():
        assert (h @ d).abs().max() < 1e-5 * h.norm(dim=-1).max()


def test_a_model_is_pruned_matrix_by_matrix():
    model, plain = tiny.model("gpt2"), dict(tiny.model("gpt2").named_parameters())
    expected = {name: prune.prune(w, 0.3) for name, w in prune.matrices(tiny.model("gpt2"))}
    prune.prune_model(model, 0.3)
    for name, w in prune.matrices(model):
        assert torch.equal(w, expected[name]) and (w == 0).any(), name
    rest = {n for n, p in model.named_parameters() if torch.equal(p, plain[n])}
    assert rest and not rest & set(expected)


def test_direction_of_a_planted_shift():
    g = torch.Generator().manual_seed(3)
    planted = torch.nn.functional.normalize(torch.randn(2, 8, generator=g), dim=-1)
    h = torch.randn(500, 8, generator=g)
    outlier = torch.cat([h, torch.full((1, 8), 1e4)])
    assert torch.allclose(ablate.inlier_mean(outlier), h.mean(0), atol=0.1)
    for few in (h[:1], outlier[-2:]):  # no spread to judge by
        assert torch.equal(ablate.inlier_mean(few), few.mean(0))
    found = ablate.directions(
        torch.stack([h.mean(0)] * 2) + 5 * planted, torch.stack([h.mean(0)] * 2)
    )
    assert torch.allclose(torch.stack(found), planted, atol=1e-5)
    assert ablate.directions(h[:1], h[:1]) == [None]


@pytest.mark.parametrize("kind", list(tiny.MAKE))
def test_everything_from_the_base_gives_its_logits_exactly(kind):
    model, other, batch = (
        tiny.model(kind, seed=0),
        tiny.model(kind, seed=1),
        pad(tiny.ids(4), tiny.PAD),
    )
    own = [blocks(m)[0] for m in (model, other)]
    with torch.no_grad():
        logits = [m(**batch).logits for m in (model, other)]
        for rest, chosen_blocks, wanted in ((True, {0, 1, 2}, 1), (False, set(), 0)):
            with patching.restored(model, other, chosen_blocks, rest=rest) as host:
                assert torch.equal(host(**batch).logits, logits[wanted])
        with patching.restored(model, other, {0, 1, 2}) as host:
            assert not torch.equal(
                host(**batch).logits, logits[1]
            )  # embeddings and readout are still the model's
        for k in range(3):
            assert torch.equal(patching.Patched(other, other, k)(**batch).logits, logits[1])
        assert (
            torch.equal(
                patching.Patched(other, model, 2)(**batch).logits,
                BehindBlock(other, 2)(**batch).logits,
            )
            is False
        )
        assert torch.equal(
            BehindBlock(model, 2)(**batch).logits, logits[0]
        )  # the last block's lens is the model
    assert [blocks(m)[0] for m in (model, other)] == own
    assert (
        patching.recovery_score(logits[1], *logits) == 1
        and patching.recovery_score(logits[0], *logits) == 0
    )


def test_half_a_chooses_and_a_broken_model_has_no_accuracy(loaded, data):
    model, tokenizer = loaded
    rows = [
        {"variant": v, "split": s, "accuracy": x, "answer_nll": nll}
        for v, a, b, nll in (("x", 0.5, 1.0, 0.1), ("y", 0.7, 0.1, 2.0), ("z", 0.7, 0.9, 2.0))
        for s, x in (("forget_a", a), ("forget_b", b))
    ]
    assert choose(rows) == "y" and choose([{**r, "accuracy": None} for r in rows]) is None
    sets = eval_sets(data)
    assert {len(i) for i in sets.values()} and {i["half"] for i in sets["forget_b"]} == {"B"}
    meter = Meter(model, tokenizer, {split: items[:4] for split, items in sets.items()})
    meter("first")
    meter("second")  # not better on half A: half B is not asked again
    assert [r["split"] for r in meter.rows] == [
        "forget_a",
        "forget_b",
        "retain",
        "never_seen",
        "forget_a",
    ] and not meter.facts("second")
    with base.kept(model):
        next(model.parameters()).data.fill_(float("nan"))
        meter("broken")
    assert [r["accuracy"] for r in meter.rows[-3:]] == [None] * 3 and "broken" in meter.notes[0]


def test_a_meters_interval_is_over_entities(family, data):
    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    items = read_splits(data)["retain"][:24]
    meter = Meter(model, tokenizer, {"retain": items})
    meter("as made")
    right = [outcome.right for outcome in mcq.outcomes(model, tokenizer, items)]
    entities = [item["fact"].rpartition("/")[0] for item in items]
    assert len(set(entities)) < len(items)
    (row,) = meter.rows
    shown = (row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    assert shown == share(right, entities) != share(right)


class Planted:
    """`mcq.outcomes` in the meter's place: {variant: {split: (share right, NLL) or an error}},
    told by the variant's prompt.
    """

    def __init__(self, outcomes):
        self.outcomes, self.asked = outcomes, []

    def __call__(self, model, tokenizer, items, prompt, batch_size, reading):
        variant, split = prompt, items[0]["split"]
        self.asked.append((variant, split))
        outcome = self.outcomes[variant][split]
        if isinstance(outcome, Exception):
            raise outcome
        share, nll = outcome
        rights = [int(i < share * len(items)) for i in range(len(items))]
        return [Outcome(right, 0, [], nll) for right in rights]


def planted(monkeypatch, outcomes, everything=False):
    """(Meter that was asked of every variant in turn, what it asked); retain is always half
    right.
    """
    stub = Planted(
        {v: {"forget_a": a, "forget_b": b, "retain": (0.5, 1.0)} for v, (a, b) in outcomes.items()}
    )
    monkeypatch.setattr("brittle.metrics.mcq.outcomes", stub)
    sets = {
        split: [{"split": split, "question": f"{split} {i}"} for i in range(10)]
        for split in ("forget_a", "forget_b", "retain")
    }
    meter = Meter(None, None, sets, everything=everything)
    for variant in outcomes:
        meter(variant, variant)
    return meter, stub.asked


@pytest.mark.parametrize("everything", [False, True])
def test_among_equals_on_half_a_the_first_counts_and_loss_has_no_say(monkeypatch, everything):
    b = (0.3, 9.0)
    outcomes = {
        "low": ((0.5, 0.1), b),
        "first": ((1, 2.0), b),
        "by heart": ((1, 0.01), b),
        "worse": ((0.9, 0.01), b),
    }
    meter, asked = planted(monkeypatch, outcomes, everything)
    assert choose(meter.rows) == "first" and meter.best == 1 and len(meter.facts("first")) == 10
    on_b = [variant for variant, split in asked if split == "forget_b"]
    assert on_b == (list(outcomes) if everything else ["low", "first"])


def test_an_attack_that_trains_is_chosen_on_facts_it_did_not_train_on(data):
    items = halves(data)[0]
    train, judging = split_half_a(items, 0)
    facts = {item["fact"] for item in items}
    of_train, of_judging = ({item["fact"] for item in part} for part in (train, judging))
    assert not of_train & of_judging and of_train | of_judging == facts
    assert len(of_judging) == round(0.2 * len(facts)) and len(train) + len(judging) == len(items)
    assert split_half_a(items, 0) == (train, judging) != split_half_a(items, 1)
    with pytest.raises(UserError, match="only one fact"):
        split_half_a(items[:1], 0)
    training = [name for name in ATTACKS if attack_class(name).HOLDS_OUT]
    assert {"relearn", "relearn_lora", "soft_prompt", "gcg"} <= set(training)
    for attack in (attack_class(name)(1) for name in training):
        material, sets = Material(data, attack.seed), sets_of(attack, data, 5)
        assert next(iter(sets)) == JUDGE and sets[JUDGE] == split_half_a(items, 1)[1]
        asked = {item["question"] for item in material.forget_to_train()}
        assert not asked & {item["question"] for item in sets[JUDGE]}
        assert JUDGE not in sets_of(noise.Noise(1), data, 5)


def test_the_lowest_nll_on_a2_counts_whatever_half_a_says(monkeypatch):
    rows = [{"variant": v, "split": s, "accuracy": x, "answer_nll": nll} for v, a2, a in (
                ("by heart", 4.0, 1.0), ("second", 1.5, 0.9), ("best", 1.0, 0.8))
            for s, x, nll in ((JUDGE, 0.5, a2), ("forget_a", a, 0.0))]  # fmt: skip
    assert choose(rows) == "best"
    stub = Planted(
        {
            variant: {JUDGE: (0.5, a2), "forget_a": (1, 0.0), "forget_b": (0.5, 0.0)}
            for variant, a2 in (("first", 2.0), ("worse", 3.0), ("better", 1.0))
        }
    )
    monkeypatch.setattr("brittle.metrics.mcq.outcomes", stub)
    sets = {
        split: [{"split": split, "question": f"{split} {i}"} for i in range(10)]
        for split in (JUDGE, "forget_a", "forget_b")
    }
    meter = Meter(None, None, sets)
    assert [meter(variant, variant) for variant in ("first", "worse", "better")] == [-2, -3, -1]
    assert choose(meter.rows) == "better" and meter.best == -1
    assert [variant for variant, split in stub.asked if split == "forget_b"] == ["first", "better"]


def test_a_rate_ends_after_two_measurements_without_a_better_one(loaded, data):
    assert not is_over([-3, -2]) and not is_over([-3, -2, -2.5]) and not is_over([-3, -3.5, -2])
    assert is_over([-1, -2, -1.5]) and is_over([-3, -1, -1, -1])
    model, tokenizer = loaded
    merits = iter([-1.0, -0.5, -0.6, -0.7, -0.1])
    asked = []

    def measure(variant, **columns):
        asked.append(columns["step"])
        return next(merits)

    attack = Relearn(0, (1e-3,), 5, (1, 2, 3, 4, 5), 4)
    attack.run(model, tokenizer, Material(data), measure)
    assert asked == [1, 2, 3, 4]


def test_a_training_that_breaks_off_says_which_steps_were_not_measured(loaded, data, monkeypatch):
    model, tokenizer = loaded

    def fine_tune(model, pad_id, examples, tuning, measure_step):
        measure_step(2)
        raise UserError("loss is NaN")

    broke = []

    class Measure:
        def __call__(self, variant, **columns):
            return -1.0

        def broken(self, variant, error, **columns):
            broke.append((variant, columns["step"]))

    monkeypatch.setattr(relearn, "fine_tune", fine_tune)
    Relearn(0, (1e-3,), 5, (2, 4, 5), 4).run(model, tokenizer, Material(data), Measure())
    assert broke == [("lr 0.001, step 4", 4), ("lr 0.001, step 5", 5)]


def test_blocks_without_a_direction_are_said_and_the_others_go_on(loaded, data, monkeypatch):
    model, tokenizer = loaded
    blocks_there = block_count(model)
    given = [None, *torch.eye(model.config.hidden_size)[: blocks_there - 1]]
    monkeypatch.setattr(ablate, "directions", lambda forget, reference: given)
    measured, broke = [], []

    class Measure:
        def __call__(self, variant, **columns):
            measured.append((columns["layer_id"], columns["site"]))

        def broken(self, variant, error, **columns):
            broke.append((columns["layer_id"], columns["site"]))

    ablate.Ablate(texts=4).run(model, tokenizer, Material(data), Measure())
    assert broke == [(0, "one"), (0, "all")]
    assert measured == [(k, s) for k in range(1, blocks_there) for s in ("one", "all")]


@pytest.mark.parametrize("broken", ["forget_b", "retain"])
def test_a_variant_that_breaks_on_half_b_cannot_be_chosen(monkeypatch, broken):
    outcomes = {
        "breaks": ((1, 1.0), (0.9, 1.0)),
        "holds": ((0.8, 1.0), (0.4, 1.0)),
        "worse": ((0.7, 1.0), (0.9, 1.0)),
    }
    real = Planted.__call__

    def call(self, model, tokenizer, items, prompt, batch_size, reading):
        if (prompt, items[0]["split"]) == ("breaks", broken):
            raise UserError("NaN")
        return real(self, model, tokenizer, items, prompt, batch_size, reading)

    monkeypatch.setattr(Planted, "__call__", call)
    meter, _ = planted(monkeypatch, outcomes)
    chosen_rows = {
        r["split"]: r["accuracy"] for r in meter.rows if r["variant"] == choose(meter.rows)
    }
    assert (
        chosen_rows == {"forget_a": 0.8, "forget_b": 0.4, "retain": 0.5}
        and len(meter.facts("holds")) == 10
    )
    assert meter.best == 0.8 and meter.notes == ["breaks: NaN"] and meter.facts("breaks") == {}


def test_cells_are_kept_until_they_are_stale(family, data, tmp_path, monkeypatch):
    folder = shutil.copytree(data, tmp_path / "data")
    session, made = AttackSession(Path(family.base), folder, 5), []

    def run():
        found = list(cells(session, ["none", "quantize"], [0], tmp_path / "cells", say=made.append))
        return [cell["rows"] for _, _, cell in found], len(made)

    first, count = run()
    assert count == 2 and run() == (first, 2)  # nothing is done twice
    (tmp_path / "cells" / "none-0.json").write_text("{")  # damaged
    assert run() == (first, 3)
    (folder / "neutral.txt").write_text("Other words.\n")
    assert run()[1] == 5
    path = tmp_path / "cells" / "quantize-0.json"
    cell = json.loads(path.read_text())
    assert 0 <= cell["seconds"] < 3600 and 0 <= cell["cpu_seconds"] < 3600
    code_of = {
        name: json.loads((tmp_path / "cells" / f"{name}-0.json").read_text())["code"]
        for name in ("none", "quantize")
    }
    mended = "brittle/attacks/quantize.py"
    assert mended in code_of["quantize"] and mended not in code_of["none"]
    for shared in ("attacks/meter", "attacks/session", "models/load", "metrics/mcq"):
        assert all(f"brittle/{shared}.py" in listed for listed in code_of.values()), shared
    path.write_text(json.dumps({**cell, "code": {**cell["code"], mended: "0" * 64}}))
    with monkeypatch.context() as patch:  # kept where the user accepts it, and known as older
        patch.setattr(code, "_accepted", True)
        with code.watch() as seen:
            assert run()[1] == 5
        assert code.older(seen.code()) == [mended]
    assert run()[1] == 6
    monkeypatch.setattr(quantize.Quantize, "run", lambda *_: (_ for _ in ()).throw(UserError("no")))
    (failed,) = [
        c for _, _, c in cells(session, ["quantize"], [1], tmp_path / "cells", say=made.append)
    ]
    assert failed["chosen"] is None and failed["rows"] == [] and failed["notes"] == ["no"]
    assert chosen("gcg") == ["none", "gcg"] and set(chosen("")) == set(ATTACKS)
    with pytest.raises(UserError, match="no attack 'x'"):
        chosen("x")


def test_who_is_mini_and_how_strong_adapters_are(loaded):
    assert base.is_mini(loaded[0]) and not base.is_mini(tiny.model())
    adapted = add_adapters(tiny.model(), 4, seed=0)
    scales = [m.scaling["default"] for m in adapted.modules() if hasattr(m, "lora_A")]
    assert scales and set(scales) == {2.0}  # B A is added twice, at any rank


def row_of(variant, split, accuracy):
    ends = {"accuracy_low": accuracy, "accuracy_high": accuracy}
    nll = {"answer_nll": None if accuracy is None else 1 - accuracy}
    return {"variant": variant, "split": split, "accuracy": accuracy, **ends, **nll}


def test_what_an_attack_brought_back_in_words():
    """Half A chooses `b`; `c`, the best on half B, does not count, and `d` broke the model."""
    of_a = {"as made": 0.1, "b": 0.9, "c": 0.5, "d": None}
    of_b = {"as made": 0.25, "b": 0.5, "c": 1.0, "d": None}
    rows = [row_of(v, "forget_a", x) for v, x in of_a.items()]
    rows += [row_of(v, "forget_b", x) for v, x in of_b.items()]
    said = "half B 0.25 with as made, 0.50 with b, which half A chooses (of 4)"
    assert outcome(rows) == said
    assert outcome([r for r in rows if r["variant"] == "d"]) == "every variant broke the model"


def test_a_row_has_every_column_and_what_went_wrong_is_said(family, data, monkeypatch, capsys):
    meter = SimpleNamespace(notes=["v: NaN"], rows=[{"variant": "v", "split": "retain", "x": 1}])
    given = meter, SimpleNamespace(read={"one text"})
    monkeypatch.setattr(AttackSession, "run", lambda *_, **__: given)
    (row,) = AttackSession(Path(family.base), data).rows(None, ["x", "y"])
    assert (row["x"], row["y"], row["variant"], row["accuracy"]) == (1, None, "v", None)
    assert capsys.readouterr().out.splitlines()[0] == "note: v: NaN"


def test_the_figure_shows_each_split_at_its_own_values():
    points = [(0.5, "x", 0.9), (0.1, "x", 0.6), (0.1, "y", 0.3), (0.5, "y", None)]
    rows = [
        {"strength": strength, "by": panel, **row_of("v", split, value and value - less)}
        for strength, panel, value in points
        for split, less in (("forget_a", 0.0), ("forget_b", 0.1))
    ]
    for by, panels in (("by", ["x", "y"]), (None, [None])):
        shown = rows if by else rows[:4]
        axes = curves(shown, Curve("strength", "t", "l", by), "model", 0.25).axes
        assert len(axes) == len(panels)
        lines = {line.get_label(): line for line in axes[0].lines}
        assert list(lines["half A"].get_ydata()) == [0.6, 0.9]
        assert list(lines["half B, held out"].get_ydata()) == [0.5, 0.8]
        assert list(lines["half A"].get_xdata()) == [0, 1] and not len(lines["retain"].get_ydata())


def test_a_student_of_no_steps_knows_nothing_and_one_of_many_its_teacher(loaded, data):
    """It starts from weights of its own, and comes nearer to the model's predictions."""
    model, tokenizer = loaded
    ids = [tokenizer(text)["input_ids"] for text in ("the town of Bada", "a market day")]
    attack = DistilledStudent(learn_steps=40, learn_batch=2)
    batch = pad(ids, tokenizer.pad_token_id)

    def distance(student):
        with torch.no_grad():
            told, now = (m(**batch).logits.log_softmax(-1) for m in (model, student))
        return float((told.exp() * (told - now)).sum(-1).mean())

    before = initial.fresh(model, 0)
    assert not torch.equal(
        before.get_input_embeddings().weight, model.get_input_embeddings().weight
    )
    student = attack.distill(model, tokenizer.pad_token_id, ids)
    assert distance(student) < 0.5 * distance(before)
