"""The mini family: its tokenizer, its GPT-NeoX configuration, and the training of a model."""

from brittle.base.errors import UserError
from brittle.data.batches import Stream
from brittle.data.texts import read_texts
from brittle.models.logprobs import nll
from brittle.training.cost import described
from brittle.training.loop import make_accelerator, train
from brittle.training.settings import Settings

END, PADDING = "<|endoftext|>", "<|padding|>"
TEXTS = {"base": "pretrain_base.txt", "filtered": "pretrain_filtered.txt"}


def make_tokenizer(texts, vocab_size):
    """Byte-level BPE of `vocab_size` tokens trained on `texts`, as a Hugging Face tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 2:
        raise UserError(
            f"--vocab-size {vocab_size}: at least {len(alphabet) + 2} (the bytes and two special "
            "tokens)."
        )
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END, PADDING],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PADDING,
        model_max_length=256,
    )


def make_model(tokenizer, hidden_size, layers, heads, seed):
    """A GPT-NeoX model with random weights, drawn from `seed` alone.

    Its configuration says that it is of the mini family.
    """
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    if hidden_size % heads or (hidden_size // heads) % 2:
        raise UserError(
            f"--hidden-size {hidden_size} does not divide into {heads} heads of even width."
        )
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        family="mini",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config)


class LengthStream(Stream):
    """A Stream whose batches hold texts of similar length.

    Within windows of 8 batches a permutation is sorted by length.
    """

    def order(self, epoch):
        order, size = super().order(epoch), self.batch_size
        windows = [order[i : i + 8 * size] for i in range(0, len(order), 8 * size)]
        batches = []
        for window in windows:
            by_length = sorted(window, key=lambda j: len(self.examples[j]))
            batches += [by_length[i : i + size] for i in range(0, len(by_length), size)]
        # a short batch goes last, or all batches behind it would straddle two lengths
        shuffled = sorted(batches, key=lambda b: (len(b) < size, order.index(b[0])))
        return [i for batch in shuffled for i in batch]


def make_settings(**values):
    """Settings of the mini family's training: `values`, with Muon and a trapezoid schedule."""
    return Settings(schedule="trapezoid", warmup=20, optimizer="muon", **values)


def describe_cost(role, data, history, seconds):
    """What the record of a mini model says of its training's cost; history: of `train_model`.

    Base needs no labels. Filtered needs them for every forget text, to leave it out.
    """
    counts = {name: len(read_texts(data / file)) for name, file in TEXTS.items()}
    marked = counts["base"] - counts["filtered"] if role == "filtered" else 0
    return described(sum(row["flops"] for row in history), seconds, marked / counts["base"])


def train_model(role, data, device, tokenizer, model, settings):
    """Train `model` on the pretraining text of `role` (base or filtered). Returns the history.

    data: the folder of the texts. Every text is followed by the end token.
    """
    texts = read_texts(data / TEXTS[role])
    ids = [[*i, tokenizer.eos_token_id] for i in tokenizer(texts)["input_ids"]]
    stream = LengthStream(
        ids, tokenizer.pad_token_id, settings.batch_size, seed=settings.seed, device=device
    )

    def terms(step, micro, progress):
        return {"nll": nll(model, stream.batches(step)[micro])}

    model.to(device).train()
    return train(model, terms, settings, make_accelerator(device), label=role)
