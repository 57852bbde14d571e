"""Generation: a batch gives what each prompt gives alone, token for token, ties included; sampling
draws what it says.
"""

from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.models import generate
from support import tiny

GREEDY = generate.Sampling(max_new_tokens=8)
PROMPTS = tiny.ids(7, seed=3)


def by_definition(model, prompt, count=8, stop=()):
    """argmax of the canonical logits, token after token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + count and (len(ids) == len(prompt) or ids[-1] not in stop):
            ids.append(int(generate.alone(model, ids).argmax()))
    made = ids[len(prompt) :]
    return made[:-1] if made[-1] in stop else made


@pytest.mark.parametrize("kind", tiny.MAKE)
def test_batched_greedy_is_one_by_one_and_is_transformers(kind):
    model = tiny.model(kind, layers=2)
    batched = generate.generate(model, PROMPTS, GREEDY, pad_id=tiny.PAD)
    assert batched == [by_definition(model, p) for p in PROMPTS]
    for size, padding in ((1, 5), (3, 0)):
        assert generate.generate(model, PROMPTS, GREEDY, pad_id=padding, batch_size=size) == batched
    one = torch.tensor([PROMPTS[0]])
    theirs = model.generate(
        one,
        attention_mask=torch.ones_like(one),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
    )
    assert theirs[0, len(PROMPTS[0]) :].tolist() == batched[0]
    assert len({tuple(b) for b in batched}) > 3  # prompts matter


def test_a_family_without_a_cache():
    """GPT reads the whole text at every step, also where some rows end before others."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    sizes = {"vocab_size": tiny.VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8)
    free = [by_definition(model, p) for p in PROMPTS]
    stop = {free[0][2], free[3][5]}
    assert generate.generate(model, PROMPTS, GREEDY, stop, pad_id=tiny.PAD) == [
        by_definition(model, p, stop=stop) for p in PROMPTS
    ]


def test_rows_that_end_leave_the_others_as_they_are():
    model = tiny.model()
    free = [by_definition(model, p) for p in PROMPTS]
    stop = {free[0][2], free[3][5]}
    assert generate.generate(model, PROMPTS, GREEDY, stop) == [
        by_definition(model, p, stop=stop) for p in PROMPTS
    ]


def test_exact_ties_fall_the_same_way_in_every_batch():
    """Each word twice in the unembedding: every step is a tie, which rounding decides where nothing
    else does.
    """
    model = tiny.model(layers=2)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[2:30] = head[30:58] * (
            1 + 2e-7 * torch.randn(28, 1, generator=torch.Generator().manual_seed(0))
        )
    expected = [by_definition(model, p) for p in PROMPTS]
    for size in (1, 2, 7):
        assert generate.generate(model, PROMPTS, GREEDY, batch_size=size) == expected


class Noisy(torch.nn.Module):
    """Logits c(last token, length) of few different values, off by up to 0.9 e where a cache is
    used.
    """

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=64)

    def __init__(self, noise):
        super().__init__()
        self.noise, self.generator = noise, torch.Generator().manual_seed(0)
        self.table = torch.randint(
            1, 4, (tiny.VOCAB, 50), generator=torch.Generator().manual_seed(1)
        ).float()

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
        logits = self.table[input_ids]
        logits[..., 0] = 4 + 1e-6 * (input_ids % 3)  # a near tie for the lead with the next line's
        logits[..., 1] = 4 + 1e-6
        if use_cache:
            e = generate.NOISE[torch.float32] * torch.finfo(torch.float32).eps * 4
            logits = logits + self.noise * e * (
                2 * torch.rand(logits.shape, generator=self.generator) - 1
            )
        return SimpleNamespace(
            logits=logits, past_key_values=SimpleNamespace(batch_select_indices=lambda _: None)
        )


def test_noise_below_the_bound_changes_no_token(monkeypatch):
    exact = [by_definition(Noisy(0), p) for p in PROMPTS]
    assert generate.generate(Noisy(0.9), PROMPTS, GREEDY) == exact
    monkeypatch.setattr(
        generate, "choose", lambda model, logits, prefixes: logits.argmax(-1).tolist()
    )
    assert generate.generate(Noisy(0.9), PROMPTS, GREEDY) != exact  # the rule is what makes it so


def test_draws_follow_the_nucleus():
    p = torch.tensor([0.05, 0.5, 0.15, 0.3])
    for top_p, kept in (
        (1.0, [0, 1, 2, 3]),
        (0.85, [1, 2, 3]),
        (0.8, [1, 3]),
        (0.5, [1]),
        (0.0, [1]),
    ):
        sampling = generate.Sampling(temperature=2.0, top_p=top_p)
        drawn = torch.tensor(
            [generate.draw(2 * p.log(), sampling, (i + 0.5) / 2000) for i in range(2000)]
        )
        wanted = torch.zeros(4).index_put((torch.tensor(kept),), p[kept] / p[kept].sum())
        assert torch.allclose(torch.bincount(drawn, minlength=4) / 2000, wanted, atol=1e-3), top_p


def test_samples_depend_on_seed_and_prompt_alone():
    model, keys = tiny.model(), [f"prompt {i}" for i in range(7)]
    sampling = generate.Sampling(8, temperature=1.5, seed=1)
    made = generate.generate(model, PROMPTS, sampling, keys=keys)
    assert made == generate.generate(model, PROMPTS, sampling, keys=keys, batch_size=1)
    assert (
        made
        == generate.generate(model, PROMPTS[::-1], sampling, keys=keys[::-1], batch_size=2)[::-1]
    )
    assert made != generate.generate(model, PROMPTS, generate.Sampling(8, 1.5, seed=2), keys=keys)
    assert made != generate.generate(model, PROMPTS, GREEDY)


def test_answers_end_where_the_context_ends():
    model = tiny.model()
    long = generate.generate(
        model, [PROMPTS[0], PROMPTS[1]], generate.Sampling(max_new_tokens=1000)
    )
    assert [len(p) + len(m) for p, m in zip(PROMPTS, long, strict=False)] == [64, 64]


def test_broken_models_are_named():
    model = tiny.model()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite"):
        generate.generate(model, PROMPTS, GREEDY)


def test_what_ends_an_answer():
    model, tokenizer = tiny.model(), SimpleNamespace(eos_token_id=9)
    for named, wanted in ((None, {9}), (3, {3, 9}), ([3, 4], {3, 4, 9})):
        model.generation_config.eos_token_id = named
        assert generate.stop_ids(model, tokenizer) == wanted
