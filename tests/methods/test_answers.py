"""Losses of examples with an answer: they count its tokens and nothing else.

Each is compared with a loop over one unpadded example at a time, in float64.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from brittle.data.batches import Stream
from brittle.data.examples import Example, TrainingReading, encode_rows
from brittle.data.rows import Pair
from brittle.methods import METHODS, adversary
from brittle.methods.refusals import REFUSALS, Refusals
from brittle.models import logprobs
from brittle.models.hooks import residual_stream
from support import tiny
from support.chat_tokenizers import make_chat_model, make_chat_tokenizer
from support.started import moved, start

CLOSE = {"rtol": 1e-9}


def logits(model, example):
    """[T, V] of one example, unpadded."""
    return model(input_ids=torch.tensor([example.ids])).logits[0]


def told(model, example):
    """log p of each token that counts: those of the answer, or all but the first."""
    logp = logits(model, example).log_softmax(-1)
    places = [p for p in range(1, len(example)) if example.answer is None or example.answer[p]]
    return torch.stack([logp[p - 1, example.ids[p]] for p in places])


def at_answers(model, example, values):
    """values [T] at the positions that predict a token of the answer; all of them without one."""
    if example.answer is None:
        return values
    return values[[p - 1 for p in range(1, len(example)) if example.answer[p]]]


def data(**reading):
    made = tiny.Data()
    made.forget, made.retain = (
        Stream(tiny.examples(8, seed, **reading), tiny.PAD, 4, 1, seed) for seed in (1, 2)
    )
    return made


def four(texts, **padding):
    made = tiny.batch(texts.examples[:4], **padding)
    made.index = torch.arange(4)
    return made


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("extra", [0, 5])
def test_the_loss_of_an_example_is_that_of_its_answers_tokens(left, extra):
    model, examples = tiny.model(dtype=torch.float64), tiny.examples(6)
    batch = tiny.batch(examples, left, extra)
    per = [told(model, example) for example in examples]
    torch.testing.assert_close(
        logprobs.nll(model, batch), -torch.cat(per).mean(), rtol=1e-6, atol=0
    )
    summed = torch.stack([values.sum() for values in per])
    torch.testing.assert_close(
        logprobs.sequence_logprobs(model, batch).double(), summed, rtol=1e-6, atol=0
    )
    assert batch.n_targets == sum(map(len, per)) == int(logprobs.target_mask(batch).sum())
    assert batch.n_tokens == int(logprobs.token_mask(batch).sum())
    held = logprobs.mean_nll(model, examples, tiny.PAD)
    assert held == pytest.approx(-torch.cat(per).mean().item(), rel=1e-6)


def test_loss_on_all_is_the_plain_text():
    model = tiny.model(dtype=torch.float64)
    whole = tiny.batch(tiny.examples(6, loss_on="all", positions="all"))
    text = tiny.batch([example.ids for example in tiny.examples(6)])
    assert torch.equal(logprobs.nll(model, whole), logprobs.nll(model, text))
    assert torch.equal(logprobs.state_mask(whole), text["attention_mask"])
    assert (whole.n_tokens, whole.n_states) == (text.n_tokens, text.n_states)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_are_counted_by_answer_tokens(micro):
    """So the mean of the parts' losses, and of their gradients, is the whole batch's."""
    model, examples = tiny.model(dtype=torch.float64), tiny.examples(8)
    (whole,) = Stream(examples, tiny.PAD, 8, seed=2).batches(5)
    parts = Stream(examples, tiny.PAD, 8 // micro, micro, seed=2).batches(5)
    assert whole.n_targets == sum(len(told(model, example)) for example in examples)
    for count in ("n_targets", "n_tokens", "n_states"):
        assert {getattr(part, count) for part in parts} == {getattr(whole, count) / micro}
    mean = sum(logprobs.nll(model, part) for part in parts) / micro
    torch.testing.assert_close(mean, logprobs.nll(model, whole), **CLOSE, atol=0)


@pytest.mark.parametrize("left", [False, True])
def test_npo_sums_and_simnpo_averages_the_answers(left):
    model, texts = tiny.model(dtype=torch.float64), data()
    npo = start("npo", model, data=texts, beta=0.3, retain_weight=0.0)
    simnpo = start("simnpo", model, data=texts, beta=1.7, retain_weight=0.0)
    before = [told(model, example).sum().item() for example in texts.forget.examples[:4]]
    moved(model)
    now = [told(model, example) for example in texts.forget.examples[:4]]
    batch, retain = four(texts.forget, left=left), four(texts.retain, left=left)
    gains = [n.sum() - b for n, b in zip(now, before, strict=True)]
    wanted = -2 / 0.3 * sum(F.logsigmoid(-0.3 * gain) for gain in gains) / 4
    assert npo.losses(batch, retain, 0.0)["forget"].item() == pytest.approx(wanted.item(), rel=1e-5)
    wanted = -2 / 1.7 * sum(F.logsigmoid(-1.7 * n.mean()) for n in now) / 4
    got = simnpo.losses(batch, retain, 0.0)["forget"].item()
    assert got == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("left", [False, True])
def test_kl_and_entropy_are_means_over_what_predicts_the_answers(left):
    model, texts = tiny.model(dtype=torch.float64), data()
    rule = start("kl_min", model, data=texts)
    me = start("me", model, data=texts, forget_weight=1.0, retain_weight=0.0)
    first = {id(e): logits(model, e).log_softmax(-1).detach() for e in texts.retain.examples[:4]}
    moved(model)
    divergence, uniform = [], []
    for example in texts.retain.examples[:4]:
        now = logits(model, example).log_softmax(-1)
        old = first[id(example)]
        divergence.append(at_answers(model, example, (old.exp() * (old - now)).sum(-1)))
    for example in texts.forget.examples[:4]:
        logp = logits(model, example).log_softmax(-1)
        uniform.append(at_answers(model, example, -logp.mean(-1) - math.log(logp.size(-1))))
    batch, retain = four(texts.forget, left=left), four(texts.retain, left=left)
    got = rule.losses(batch, retain, 0.0)["retain"].item()
    assert got == pytest.approx(torch.cat(divergence).mean().item(), rel=1e-5)
    got = me.losses(batch, retain, 0.0)["forget"].item()
    assert got == pytest.approx(torch.cat(uniform).mean().item(), rel=1e-5)


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_rmu_moves_the_states_that_predict_the_answers(positions):
    model, texts = tiny.model(dtype=torch.float64), data(positions=positions)
    rule = start("rmu", model, data=texts)
    target, far = rule.target[1].double(), []
    for example in texts.forget.examples[:4]:
        h = residual_stream(model, {"input_ids": torch.tensor([example.ids])})[2][0]
        per = (h - target).pow(2).mean(-1)
        far.append(per if positions == "all" else at_answers(model, example, per))
    got = rule.losses(four(texts.forget), four(texts.retain), 0.0)["forget"].item()
    assert got == pytest.approx(torch.cat(far).mean().item(), rel=1e-5)


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_cb_turns_the_states_that_predict_the_answers(positions):
    model, texts = tiny.model(dtype=torch.float64), data(positions=positions)
    rule = start("cb", model, data=texts, alpha=1.0)

    def states(example):
        return residual_stream(model, {"input_ids": torch.tensor([example.ids])})[2][0].detach()

    first = [states(example) for example in texts.forget.examples[:4]]
    moved(model, 0.3)
    near = []
    for example, old in zip(texts.forget.examples[:4], first, strict=True):
        per = F.cosine_similarity(states(example), old, dim=-1).relu()
        near.append(per if positions == "all" else at_answers(model, example, per))
    got = rule.losses(four(texts.forget), four(texts.retain), 0.0)["forget"].item()
    assert got == pytest.approx(torch.cat(near).mean().item(), rel=1e-5)


def test_the_latent_adversary_lowers_the_answers_loss_alone():
    """A prompt's last token is predicted no better where its loss does not count."""
    model = tiny.model(dtype=torch.float64)
    ids = tiny.ids(1, shortest=9)[0]
    example = Example(ids, [place >= len(ids) - 1 for place in range(len(ids))])
    batch = tiny.batch([example])
    delta = adversary.attack(model, batch, 0, 0.3, 2)
    # causal: no position behind the one that predicts the answer can matter
    assert delta[0, -1].abs().max() == 0 and delta[0, -2].norm() > 0


@pytest.mark.parametrize("family", ["llama3", "qwen", "mistral", "phi"])
@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_a_refusal_replaces_exactly_the_answer(family, loss_on):
    tokenizer = make_chat_tokenizer(family)
    pairs = [Pair("Who was born in Rome?", "Ada Lind"), Pair("Where? Who: she?", "Lives in Rome.")]
    examples = encode_rows(tokenizer, pairs, 200, TrainingReading(loss_on=loss_on))
    refused = Refusals("", Stream(examples, tiny.PAD, 2), tokenizer, seed=3)
    for pair, example, other in zip(pairs, examples, refused.examples, strict=True):
        assert other.prompt == example.prompt
        said = [i for i, answer in zip(other.ids, other.answer, strict=True) if answer]
        line = tokenizer.decode(said, skip_special_tokens=True).strip()
        assert line in REFUSALS
        assert other == encode_rows(tokenizer, [Pair(pair.prompt, line)], 200, example.reading)[0]
    batch = refused.batch(tiny.batch(examples))
    assert batch.reply.sum(1).tolist() == [sum(example.answer) for example in refused.examples]


def test_dpo_compares_the_refusal_with_the_answer():
    tokenizer = make_chat_tokenizer("qwen")
    pairs = [Pair("Who was born in Rome?", "Ada Lind"), Pair("Where?", "In Rome.")]
    texts = tiny.Data()
    texts.tokenizer = tokenizer
    texts.forget = texts.retain = Stream(encode_rows(tokenizer, pairs, 200), tiny.PAD, 2)
    model = make_chat_model("qwen").double()
    rule = start("dpo", model, data=texts, beta=0.2, retain_weight=0.0)
    both = rule.refused.examples, texts.forget.examples
    before = [[told(model, example).sum().item() for example in of] for of in both]
    moved(model)
    gains = [
        [told(model, example).sum() - old for example, old in zip(of, olds, strict=True)]
        for of, olds in zip(both, before, strict=True)
    ]
    wanted = -sum(F.logsigmoid(0.2 * (good - bad)) for good, bad in zip(*gains, strict=True)) / 2
    batch = tiny.batch(texts.forget.examples)
    got = rule.losses(batch, batch, 0.0)["preference"].item()
    assert got == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_padding_changes_no_loss(name):
    model, texts = tiny.model(dtype=torch.float64), data()
    rule = start(name, model, data=texts)
    moved(model)
    right, wide, left = (
        rule.losses(four(texts.forget, **padding), four(texts.retain, **padding), 0.25)
        for padding in ({}, {"extra": 4}, {"left": True})
    )
    for term, value in right.items():
        assert wide[term].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), term
        assert left[term].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), term


OWN_ANSWERS = ("dpo", "idk")  # they also predict refusals, see above


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OWN_ANSWERS])
def test_no_loss_looks_at_what_predicts_a_prompt(name):
    """Its gradient is 0 at the logits before the answer, and not at those of its first token."""
    model, first = tiny.model(dtype=torch.float64), 6
    texts = tiny.Data()
    for seed, side in enumerate(("forget", "retain")):
        lists = tiny.ids(8, seed, shortest=9)
        made = [Example(ids, [place >= first for place in range(len(ids))]) for ids in lists]
        setattr(texts, side, Stream(made, tiny.PAD, 4, 1, seed))
    rule = start(name, model, data=texts)
    moved(model)
    seen = []

    def watch(module, inputs, output):
        if output.requires_grad:
            output.retain_grad()
            seen.append(output)

    handle = model.get_output_embeddings().register_forward_hook(watch)
    terms = rule.losses(four(texts.forget), four(texts.retain), 0.25)
    handle.remove()
    sum(terms.values()).backward()
    told = [logits.grad for logits in seen if logits.grad is not None]
    # what moves states alone has no logits
    assert told or rule.kind == "representation" or name in ("sequential", "cir", "mcu")
    for gradient in told:
        assert gradient[:, : first - 1].abs().max() == 0
        assert gradient[:, first - 1].abs().max() > 0
