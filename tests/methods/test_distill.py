"""Distillation, UNDO and oracle matching: their starts, their labels, what they cost."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.methods.distill import rows_of
from brittle.methods.labels import Divergence, Labels, divergence
from brittle.methods.teachers import check_fits, find_teacher
from brittle.methods.wrappers import Wrappers
from brittle.models.initial import initial_weights, xavier
from brittle.pipeline import steps
from brittle.pipeline.methods import making
from brittle.training.cost import Cost
from brittle.training.loop import make_accelerator, train
from brittle.training.settings import Settings
from brittle.unlearning.spent import with_teacher
from support import tiny
from support.started import batches, gradients, start, total

torch.set_num_threads(1)
UNLEARN = "unlearn/unlearn.py"


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train_some(model, rule, optimizer):
    data = tiny.Data()

    def terms(step, micro, progress):
        return rule.losses(*batches(data), progress)

    settings = Settings(steps=3, lr=0.1, optimizer=optimizer)
    train(model, terms, settings, make_accelerator(torch.device("cpu")), label=None)


# ------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("name", "given"), [("undo", {"undo_alpha": 0.0}), ("oracle_match", {"student_start": "base"})]
)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name, given, optimizer):
    """Loss and gradient are exactly 0, and no optimizer moves a bit."""
    model = tiny.model()
    before, data = weights(model), tiny.Data()
    rule = start(name, model, data=data, **given)
    loss = total(rule.losses(*batches(data), 0.0))
    assert loss.item() == 0
    assert not any(g.any() for g in gradients(model, loss))
    train_some(model, rule, optimizer)
    after = weights(model)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_full_damage_leaves_nothing_of_the_teacher():
    """Two teachers and one seed: equal bytes, those of `distill`. Another seed: others."""

    def begun(name, teacher, seed=0, **given):
        model = tiny.model(seed=teacher)
        start(name, model, seed=seed, **given)
        return weights(model)

    one, other = (begun("undo", teacher, undo_alpha=1.0) for teacher in (0, 1))
    fresh, second = begun("distill", 2), begun("distill", 2, seed=1)
    assert all(torch.equal(one[n], other[n]) and torch.equal(one[n], fresh[n]) for n in one)
    assert not any(torch.equal(fresh[n], second[n]) for n in fresh if fresh[n].ndim == 2)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama"])
def test_each_tensor_shrinks_toward_its_own_start(kind):
    """A norm's gain toward 1, a bias toward 0, a matrix by noise of the initialiser's size."""
    model = tiny.model(kind)
    before = weights(model)
    start("undo", model, undo_alpha=0.3, undo_beta=0.5)
    drawn = initial_weights(tiny.model(kind), 0)
    for name, p in model.named_parameters():
        mean, draw = drawn[name]
        if p.ndim == 1:
            gain = 1.0 if name.endswith("weight") else 0.0
            assert torch.equal(mean, torch.full_like(mean, gain)), name
            expected = 0.7 * before[name] + 0.3 * gain
        else:
            size = 0.2 / 6**0.5 if "c_proj" in name else 0.2  # GPT-2 scales by 2 x 3 blocks
            assert not mean.any() and draw.std() == pytest.approx(size, rel=0.3), name
            expected = 0.7 * before[name] + 0.3 * 0.5 * draw
        assert torch.allclose(p, expected, atol=1e-6), name


def test_tied_embeddings_are_damaged_once():
    model = tiny.model("gpt2")
    before = model.get_input_embeddings().weight.detach().clone()
    start("undo", model, undo_alpha=0.5)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head is embedding
    draw = initial_weights(tiny.model("gpt2"), 0)["transformer.wte.weight"][1]
    assert torch.allclose(embedding, 0.5 * before + 0.5 * draw, atol=1e-6)


def test_the_published_rule():
    """Xavier-uniform noise on matrices, nothing on vectors, which shrink toward 0; beta is 0.1."""
    model = tiny.model()
    before = weights(model)
    start("undo", model, seed=3, variant="paper", undo_alpha=0.25)
    drawn = xavier(tiny.model(), 3)
    for name, p in model.named_parameters():
        n = drawn[name][1]
        expected = 0.75 * before[name] + 0.25 * 0.1 * n
        assert torch.allclose(p, expected, atol=1e-6), name
        if p.ndim == 1:
            assert not n.any()
        else:
            bound = (6 / sum(p.shape)) ** 0.5
            assert n.abs().max() <= bound and n.std() == pytest.approx(bound / 3**0.5, rel=0.2)


# ------------------------------------------------------------------------------------------- labels


def test_the_gradient_of_the_divergence_is_autograds():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    log_q = torch.randn(2, 5, 7, dtype=torch.float64).log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: Divergence.apply(x, log_q), logits)
    written = 4 * (log_q.exp() * (log_q - (logits / 2).log_softmax(-1))).sum(-1)[:, :-1]
    assert torch.allclose(divergence(logits, log_q, 2.0), written.to(torch.float64))


def test_the_labels_of_the_likeliest_tokens():
    logits = torch.tensor([[[3.0, 1.0, 0.0, -1.0]]])
    index = torch.tensor([0])
    two = Labels("topk", 2).of(logits, index).exp()[0, 0]
    assert torch.allclose(two, torch.tensor([3.0, 1.0, -torch.inf, -torch.inf]).softmax(-1))
    assert Labels("argmax").of(logits, index).exp().tolist() == [[[1.0, 0.0, 0.0, 0.0]]]
    whole = Labels("topk", 9).of(logits, index)
    assert torch.allclose(whole, Labels().of(logits, index))
    warm = Labels(temperature=2.0).of(logits, index).exp()
    assert torch.allclose(warm, (logits / 2).softmax(-1))


def test_labels_over_seen_tokens_tell_nothing_of_others():
    logits = torch.tensor([[[3.0, 1.0, 0.0, -1.0]]])
    known = torch.tensor([True, False, True, False])
    told = Labels("seen", known=known).of(logits, torch.tensor([0])).exp()[0, 0]
    assert torch.allclose(told, torch.tensor([3.0, -torch.inf, 0.0, -torch.inf]).softmax(-1))
    data = tiny.Data()
    known = start("distill", tiny.model(), data=data, labels="seen").told_by.known
    tokens = {token for ids in data.retain.ids for token in ids}
    assert set(known.nonzero()[:, 0].tolist()) == tokens


def test_sampled_labels_follow_the_teacher_and_belong_to_their_text():
    p = torch.tensor([0.6, 0.3, 0.1])
    logits = p.log().expand(400, 5, 3)
    index = torch.arange(400)
    labels = Labels("sampled").of(logits, index).exp()
    assert torch.equal(labels.sum(-1), torch.ones(400, 5))
    assert torch.allclose(labels.mean((0, 1)), p, atol=0.04)
    some = torch.tensor([17, 3])
    assert torch.equal(Labels("sampled").of(logits[:2], some).exp(), labels[some])
    other = Labels("sampled", seed=1).of(logits, index).exp()
    assert not torch.equal(other, labels)


def test_noise_on_the_labels_is_drawn_once_and_as_large_as_asked():
    logits, index = torch.zeros(50, 4, 200), torch.arange(50)
    noisy = Labels(noise=0.5).of(logits, index)
    assert noisy.std() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(Labels(noise=0.5).of(logits[:1], index[7:8])[0], noisy[7])


@pytest.mark.parametrize("labels", ["topk", "topk:0", "hard", "soft:3", "topk:1.5"])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(UserError, match=f"--labels {labels}: soft, topk:K"):
        start("distill", tiny.model(), labels=labels)


# --------------------------------------------------------------------------------------------- cost


def test_a_step_costs_six_weights_of_the_student_and_two_of_the_teacher():
    """Of texts of one token, on which attention costs next to nothing."""
    student, teacher = tiny.model(width=16), tiny.model("llama", width=32)
    rule, batch = start("distill", student), tiny.batch([[3], [5], [9]])
    rule.frozen = teacher.requires_grad_(requires_grad=False)

    def multiplied(model):
        embedding = model.get_input_embeddings().weight
        return sum(p.numel() for p in model.parameters() if p.ndim == 2 and p is not embedding)

    cost = Cost()
    with cost:
        model_loss = rule.model(**batch).logits.logsumexp(-1).sum()
        with rule.teaching() as frozen:
            frozen(**batch)
    model_loss.backward()
    expected = 3 * (6 * multiplied(student) + 2 * multiplied(teacher))
    assert cost.flops == pytest.approx(expected, rel=0.02)
    whole = Cost()
    with whole:
        loss = rule.losses(batch, batch, 0.0)["kl"]
    loss.backward()
    assert whole.flops == cost.flops


def test_what_the_teacher_cost_is_added(tmp_path):
    made = {"flops": 100, "label_share": 0.3}
    (tmp_path / "training_history.run.json").write_text(json.dumps({"settings": {"cost": made}}))
    own, base = {"flops": 50, "label_share": 0.0}, tmp_path / "base"
    known = with_teacher(own, base, {"teacher": str(tmp_path)})
    assert known == {"flops": 150, "flops_before": 100, "label_share": 0.3}
    assert with_teacher(own, base, {"teacher": str(base)}) == own | {"flops_before": 0}
    unknown = with_teacher(own, base, {"teacher": str(tmp_path / "other")})
    assert unknown == {"flops": 50, "flops_before": None, "label_share": None}


# ------------------------------------------------------------------------------- texts and teachers


def test_the_texts_are_the_pretraining_text_or_the_sets(data, tmp_path):
    texts = SimpleNamespace(data=data, forget=["a"], retain=["b", "c"])
    everything, rest = (rows_of(choice, texts) for choice in ("all", "no-forget"))
    assert everything.is_pretraining and rest.is_pretraining
    forget = set((data / "forget.txt").read_text().splitlines())
    assert forget <= set(everything.rows) and not forget & set(rest.rows)
    shutil.copy(data / "neutral.txt", tmp_path)
    texts.data = tmp_path
    neutral = rows_of("neutral", texts).rows
    assert rows_of("all", texts).rows == ["a", "b", "c", *neutral]
    assert rows_of("no-forget", texts).rows == ["b", "c", *neutral]
    texts.data = tmp_path / "none"
    with pytest.raises(UserError, match="neutral"):
        rows_of("neutral", texts)


def test_a_teacher_is_named_by_folder_by_method_or_as_filtered(family, tmp_path):
    job = SimpleNamespace(root=tmp_path, model=family.base, wrappers=Wrappers())
    assert str(find_teacher(family.filtered, job)) == family.filtered
    assert str(find_teacher("filtered", job)) == family.filtered
    made = tmp_path / "mini-base__npo" / "unlearned_model"
    with pytest.raises(UserError, match=r"--teacher npo: .*unlearn/unlearn.py .* --method npo"):
        find_teacher("npo", job)
    made.parent.mkdir()
    shutil.copytree(family.base, made)
    assert find_teacher("npo", job) == made


def test_a_bad_teacher_or_damage_gets_one_line_and_leaves_nothing(
    family, brief, tmp_path, script, snapshot
):
    other = tmp_path / "other"
    shutil.copytree(family.base, other)
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    first, second, *_ = list(vocabulary["model"]["vocab"])[300:]
    words = vocabulary["model"]["vocab"]
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match="another tokenizer"):
        check_fits(other, family.base, whole=True)
    root = tmp_path / "root"
    for wrong, said in (
        (["--teacher", str(other)], "another tokenizer"),
        (["--teacher=", "--undo-alpha", "1.5"], "--undo-alpha 1.5: must be between 0 and 1"),
        (["--teacher=", "--undo-beta", "-1"], "--undo-beta -1: must be between 0 and 1, or auto"),
        (["--teacher", "cb_lat"], "--teacher cb_lat"),
    ):
        line = ["--model", family.base, "--method", "undo", "--data", brief, "--root", root]
        done = script(UNLEARN, *line, *wrong)
        assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1, done.err
        assert not root.exists()


def test_a_method_waits_for_its_teacher():
    study = steps.read_study("mini")
    rows = [row for row in steps.read_steps() if row["step"] in ("filtered", "unlearn")]
    (task,) = [task for task in making(study, rows, "undo") if task.step == "unlearn"]
    assert "unlearn cb_lat" in task.needs
    (task,) = [task for task in making(study, rows, "oracle_match") if task.step == "unlearn"]
    assert "filtered" in task.needs


def test_padding_does_not_change_what_is_drawn_of_a_text():
    drawn = [
        Labels(noise=1.0).draws(torch.tensor([3]), torch.zeros(1, length, 1000), torch.randn)
        for length in (9, 12)
    ]
    assert torch.equal(drawn[0], drawn[1][:, :9])
