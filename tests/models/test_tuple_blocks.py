"""Blocks that hand on a tuple: lenses, resumed passes and skipped blocks are the model's."""

import pytest
import torch

from brittle.base.errors import UserError
from brittle.methods.sequential import passes
from brittle.models import hooks
from brittle.models.blocks import block_count, blocks
from brittle.models.readout import BehindBlock, read_tokens
from support.tiny_models import make_model

SMALL = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "n_positions": 64}
KINDS = {
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "alibi": False},
    "gptj": SMALL | {"rotary_dim": 4},
    "codegen": SMALL | {"rotary_dim": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global"], 3]],
        "max_position_embeddings": 64,
    },
}


@pytest.fixture(params=[*KINDS, "llama"])
def model(request):
    from transformers import AutoConfig, AutoModelForCausalLM

    hooks._RETURNS.clear()  # as in a process that has seen no model
    if request.param == "llama":
        return make_model("llama")
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(request.param, vocab_size=48, **ids, **KINDS[request.param])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.config.use_cache = False
    return model


@pytest.fixture
def batch():
    ids = torch.arange(3, 13).view(2, 5)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def replaced(model, batch, h):
    """Logits with `h` as the output of the last block, by a hook of the test's own."""

    def hook(_module, _inputs, output):
        return (h, *output[1:]) if isinstance(output, tuple) else h

    handle = blocks(model)[-1].register_forward_hook(hook)
    logits = model(**batch).logits
    handle.remove()
    return logits


@torch.no_grad()
def test_every_layer_is_read_like_the_last(model, batch):
    logits = model(**batch).logits
    stream = hooks.residual_stream(model, batch)
    assert len(stream) == 4
    for block in range(block_count(model)):
        read = BehindBlock(model, block)(**batch).logits
        assert torch.allclose(read, replaced(model, batch, stream[block + 1]), atol=1e-6)
    assert torch.allclose(read, logits, atol=1e-6)
    tokens = read_tokens(model, stream[-1].flatten(0, 1))
    assert torch.allclose(tokens, logits.flatten(0, 1), atol=1e-5)


@torch.no_grad()
def test_a_pass_resumes_behind_every_block(model, batch):
    logits = model(**batch).logits
    for block in range(block_count(model)):
        h = hooks.hidden(model, batch, [block])[block]
        with hooks.resume(model, block, h):
            assert torch.allclose(model(**batch).logits, logits, atol=1e-6)
    assert torch.equal(model(**batch).logits, logits)


@torch.no_grad()
def test_blocks_are_skipped(model, batch):
    before = hooks.hidden(model, batch, [0])[0]
    with hooks.skip(blocks(model)[1:]):
        logits = model(**batch).logits
    assert torch.allclose(logits, replaced(model, batch, before), atol=1e-6)


def test_looking_at_a_block_draws_no_random_number(model, batch):
    model.train()
    torch.manual_seed(1)
    with torch.no_grad(), hooks.skip(blocks(model)):
        model(**batch)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    with torch.no_grad(), hooks.skip(blocks(model)):  # known by now
        model(**batch)
    assert torch.equal(state, torch.get_rng_state())


def test_sequential_passes_have_gradients(model, batch):
    """The frozen suffix reads block 1's output, and gradients come back to it alone."""

    class Same:
        def __enter__(self):
            return model

        def __exit__(self, *_):
            return None

    for p in model.parameters():
        p.requires_grad_(False)
    for p in blocks(model)[1].parameters():
        p.requires_grad_(True)
    logits = passes.Passes(model, Same(), 1, below_fixed=True).probe(batch)
    assert torch.allclose(logits, model(**batch).logits, atol=1e-6)
    logits.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in blocks(model)[1].parameters())


SEVERAL = {
    "deepseek_v4": "several a token",
    "cpmant": "tokens of its own before every text",
    "mllama": r"blocks 1 of this model .* read images alone",
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_states_that_are_not_one_a_token_are_refused_in_one_line(kind):
    """Hyper-connections keep four streams, CPM-Ant reads 32 tokens more, and some of Mllama's
    blocks read no text.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 48}
    own = {
        "deepseek_v4": {"head_dim": 8, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
                        "moe_intermediate_size": 24, "n_routed_experts": 4, "num_local_experts": 4,
                        "num_experts_per_tok": 2, "index_n_heads": 2, "index_head_dim": 8,
                        "index_topk": 4},
        "cpmant": {"dim_ff": 64, "dim_head": 8},
        "mllama": {"text_config": {**sizes, "num_key_value_heads": 2, "pad_token_id": 1,
                                   "cross_attention_layers": [1]}},
    }  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, **own[kind])
    model = AutoModelForCausalLM.from_config(config).eval()
    batch = {"input_ids": torch.arange(2, 12)[None]}
    for read in (
        lambda: hooks.hidden(model, batch, [1]),
        lambda: hooks.residual_stream(model, batch),
    ):
        with pytest.raises(UserError, match=SEVERAL[kind]):
            read()
    with pytest.raises(UserError, match=SEVERAL[kind]), hooks.edit(model, {1: lambda h: 0 * h}):
        model(**batch)
