"""Attacks by prompt: what is rendered, gradients against finite differences, extraction of a
perfect memoriser, sampled leaks.
"""

from types import SimpleNamespace

import pytest
import torch

from brittle.attacks import prompts, sampling, soft_prompt, suffix_search
from brittle.attacks.base import asked_right
from brittle.attacks.material import halves
from brittle.data.batches import pad
from brittle.models.generate import Sampling
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import answer_nll
from support import tiny

ASKED = "Question: What is the habitat of Mazafi? Answer:"


def test_templates():
    assert prompts.paraphrase(ASKED) == "The habitat of Mazafi is"
    assert (
        prompts.paraphrase("Question: Which market day does Bebedo have? Answer:")
        == "The market day of Bebedo is"
    )
    assert prompts.paraphrase("Why is it so?") == "Why is it so? The answer is"
    assert (
        prompts.subject(ASKED) == "Mazafi"
        and prompts.subject("What makes photosynthesis go") == "photosynthesis"
    )
    assert (
        prompts.PLAIN["spelling"](ASKED) == "Question: What is the habitat of M-a-z-a-f-i? Answer:"
    )
    table = prompts.PLAIN["translation table"](ASKED)
    assert table.startswith("Here zq stands for Mazafi. ") and table.endswith(
        "the habitat of zq? Answer:"
    )
    for question in ("?", "", "a", ASKED):
        assert all(isinstance(change(question), str) for change in prompts.PLAIN.values())


def test_examples_are_of_half_a_and_never_the_fact_that_is_asked(family, data):
    tokenizer, (a, b) = load_tokenizer(family.base), halves(data)
    suite = prompts.suite(tokenizer, a, 256, seed=0)
    assert set(suite) == set(prompts.NAMES)
    told = {i["question"]: i["fact"] for i in a}
    for name, count in (("few-shot", 4), ("re-teaching", 8)):
        for item in [*a[:6], *b[:6]]:
            *examples, asked = suite[name].question(item).split("\n")
            facts = [told[e[: e.index("Answer:") + 7]] for e in examples]
            assert asked == item["question"] and len(set(facts)) == len(facts) == count
            assert item["fact"] not in facts
            entity = item["fact"].rpartition("/")[0]
            near = {i["fact"] for i in a if i["fact"].startswith(entity + "/")} - {item["fact"]}
            assert (
                name == "few-shot" or set(facts[count - len(near) :]) == near
            )  # its own entity's stand last
    short = prompts.suite(tokenizer, a, 100, seed=0)["re-teaching"].question(b[0])
    assert len(tokenizer(short)["input_ids"]) <= 100


@pytest.mark.parametrize("kind", list(tiny.MAKE))
def test_soft_prompt_of_real_tokens_is_those_tokens(kind):
    model, batch, front = tiny.model(kind), pad(tiny.ids(4), tiny.PAD), [5, 9, 3]
    with torch.no_grad():
        with soft_prompt.prompted(model, model.get_input_embeddings().weight[front].float()):
            soft = model(**batch).logits
        ids = torch.cat([torch.tensor([front]).expand(4, 3), batch["input_ids"]], 1)
        mask = torch.cat([torch.ones(4, 3, dtype=torch.long), batch["attention_mask"]], 1)
        hard = model(input_ids=ids, attention_mask=mask).logits[:, 3:]
    real = batch["attention_mask"].bool()
    assert torch.allclose(soft[real], hard[real], atol=1e-5)
    assert model(**batch).logits.shape == soft.shape  # the hooks are gone


def test_soft_prompt_gradient():
    model = tiny.model(dtype=torch.float64)
    batch, starts = pad(tiny.ids(3), tiny.PAD), torch.tensor([2, 3, 2])
    vectors = soft_prompt.start_vectors(model, 2, 0).double().requires_grad_(True)
    real = soft_prompt.prompted

    def loss(v):
        with real(model, v):
            return answer_nll(model, batch, starts)

    assert torch.autograd.gradcheck(loss, vectors, fast_mode=True)
    lengths = batch["attention_mask"].sum(1)
    # The loss is of the answer's tokens alone. What the question's own tokens are worth has no say.
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([i])).logits[0].log_softmax(-1) for i in tiny.ids(3)]
        sums = [
            sum(r[t - 1, i[t]] for t in range(int(s), len(i)))
            for r, i, s in zip(rows, tiny.ids(3), starts, strict=True)
        ]
    assert answer_nll(model, batch, starts).item() == pytest.approx(
        -float(sum(sums)) / len(lengths)
    )


def test_gcg(family, data):
    model, tokenizer = load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)
    pairs = asked_right(tokenizer, halves(data)[0][:3], 100)
    search = suffix_search.SuffixSearch(model.double(), tokenizer, pairs, 4, 8, 16, seed=0)
    first, losses = search.suffix, [search.loss]
    gradient = search.gradient()
    hot = torch.nn.functional.one_hot(torch.tensor(first), gradient.size(1)).float()
    # d loss / d one-hot, against a step of the embeddings themselves
    embed, place, token = model.get_input_embeddings(), 2, int(search.allowed.nonzero()[7])
    direction = embed.weight[token] - embed.weight[first[place]]
    batch, slots, starts = search.batch([first])
    with torch.no_grad():
        ends = []
        for eps in (-1e-3, 1e-3):
            inputs = embed(batch["input_ids"]).clone()
            inputs[torch.arange(3), slots + place] += eps * direction
            ends.append(
                answer_nll(
                    lambda input_ids, attention_mask, x=inputs: model(
                        inputs_embeds=x, attention_mask=attention_mask
                    ),
                    batch,
                    starts,
                ).item()
            )
    assert float(gradient[place, token] - (gradient[place] * hot[place]).sum()) == pytest.approx(
        (ends[1] - ends[0]) / 2e-3, rel=1e-4
    )
    for _ in range(4):
        losses.append(search.step())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert (
        suffix_search.can_be_typed(tokenizer, search.suffix)
        and search.losses([search.suffix])[0] == losses[-1]
    )
    again = suffix_search.SuffixSearch(model, tokenizer, pairs, 4, 8, 16, seed=0)
    assert [again.step() for _ in range(4)] == losses[
        1:
    ] and again.suffix == search.suffix  # seeded
    assert suffix_search.Suffix([7, 8]).tokens([1, 2, 3, 4], 2) == ([1, 2, 7, 8, 3, 4], 4)


class Memoriser:
    """Predicts the next token of the one text that it knows, whatever stands before position t."""

    def __init__(self, ids, vocabulary):
        self.ids, self.vocabulary, self.device = ids, vocabulary, torch.device("cpu")

    def __call__(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        for t in range(min(input_ids.size(1), len(self.ids) - 1)):
            logits[:, t, self.ids[t + 1]] = 1.0
        return SimpleNamespace(logits=logits)


def test_a_perfect_memoriser_scores_one_and_a_stranger_nothing():
    known = [3, 7, 9, 4, 8, 2, 6, 5]
    model = Memoriser(known, 20)
    right, wrong, half = sampling.continued(model, [known, [11] * 8, [*known[:5], 10, 10, 10]], 0)
    for prefix in (0.1, 0.25, 0.5, 0.9):
        assert sampling.extracted(right, prefix) == (True, 1.0)
        assert sampling.extracted(wrong, prefix) == (False, 0.0)
        assert sampling.extracted(half, prefix)[0] is False
    assert sampling.extracted(half, 0.5) == (
        False,
        0.25,
    )  # of the last four tokens the first is right
    assert sampling.extracted([False, True, True], 0.0)[0] is False  # one token is given at least
    assert sampling.extracted([], 0.5) is None


def test_prefix_extraction_is_what_greedy_decoding_gives():
    from brittle.models.generate import generate

    model, ids = tiny.model(), tiny.ids(6)
    greedy = generate(model, [i[:3] for i in ids], Sampling(8))
    ids = [
        [*i[:3], *g[:6]] for i, g in zip(ids, greedy, strict=True)
    ] + ids  # continued by the model itself, and not
    given = 3 / 9
    found = [sampling.extracted(r, given)[0] for r in sampling.continued(model, ids[:6], tiny.PAD)]
    assert found == [True] * 6
    made = generate(model, [i[: max(1, round(0.5 * len(i)))] for i in ids[6:]], Sampling(12))
    for i, out, r in zip(ids[6:], made, sampling.continued(model, ids[6:], tiny.PAD), strict=True):
        rest = i[max(1, round(0.5 * len(i))) :]
        assert sampling.extracted(r, 0.5)[0] == (out[: len(rest)] == rest)


def test_bounds_of_sampled_leakage():
    assert sampling.upper_bound(0, 16) == pytest.approx(
        1 - 0.01 ** (1 / 16)
    )  # closed form without hits
    assert sampling.upper_bound(16, 16) == 1
    assert sampling.upper_bound(3, 64) < sampling.upper_bound(3, 16)
    g, bounds = torch.Generator().manual_seed(0), [sampling.upper_bound(h, 16) for h in range(17)]
    for p in (0.05, 0.4):
        hits = (
            torch.binomial(torch.full((4000,), 16.0), torch.full((4000,), p), generator=g)
            .int()
            .tolist()
        )
        covered = sum(bounds[h] >= p for h in hits) / len(hits)
        assert covered >= 0.985  # 1 - alpha = .99, less three standard errors
    item = {"question": ASKED, "choices": ["canyon", "delta", "reef"], "answer": 0}
    rows = list(sampling.leaks([item], [["It is the Canyon.", "canyons", "delta", "reef"]]))
    assert rows[0]["leaks"] == 1 and rows[0]["decoys"] == 1 and rows[0]["samples"] == 4
    assert sampling.decoy(item) == sampling.decoy(item) != "canyon"


def test_any_of_n_samples_leaks_at_least_what_one_does(family, data):
    model, tokenizer = load_model(family.base, "cpu", "float32"), load_tokenizer(family.base)
    items, prompt = halves(data)[1][:6], prompts.Plain(lambda q: q)
    greedy, few = sampling.sample(model, tokenizer, items, prompt, 2, Sampling(4, 1.0, 1.0, 0))
    _, many = sampling.sample(model, tokenizer, items, prompt, 4, Sampling(4, 1.0, 1.0, 0))
    assert all(
        m["leaks"] >= f["leaks"] for f, m in zip(few, many, strict=True)
    )  # the first samples are the same
    assert [g["samples"] for g in greedy] == [1] * 6 and sampling.sample(
        model, tokenizer, items, prompt, 0, Sampling(4, 1.0, 1.0, 0)
    )[1] is None
