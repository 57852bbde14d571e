"""Models as they are to be asked: what reads the prompts, what answers them, and how they are
called beside each other.
"""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.layout import INNER, inner, model_name
from brittle.base.record import relative
from brittle.models.architectures import context_length, size
from brittle.models.find import model_folder, read_config
from brittle.models.load import load_model, load_tokenizer


@dataclass(frozen=True)
class Setup:
    """How a model is loaded and asked; what changes its answers beside prompt and sampling."""

    revision: str | None = None
    adapter: str | None = None
    filter: str | None = None
    quantize: int | None = None
    raw: bool = False
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False

    def plain(self):
        """How the other model of a comparison is loaded: without what changes the model."""
        return replace(self, revision=None, adapter=None, filter=None, quantize=None)

    def label(self, model, name=None):
        """The name of `model` (or `name`) in tables: with its revision, adapter, filter and bits,
        so that rows can be told apart.
        """
        label = name or model_name(model)
        if self.revision:
            label += f"@{self.revision}"
        if self.adapter:
            label += f"+adapter:{model_name(self.adapter)}"
        if self.filter:
            label += f"+filter:{model_name(self.filter)}"
        if self.quantize:
            label += f"+{self.quantize}bit"
        return label

    def files(self):
        """What is read beside the model."""
        folders = [Path(folder) for folder in (self.adapter, self.filter) if folder]
        return [
            f
            for folder in folders
            for f in sorted(folder.glob("*"))
            if f.suffix in (".json", ".safetensors")
        ]


def path_of(model):
    """A model as tables name it: a folder relative to here, or a hub id."""
    return str(relative(inner(model))) if Path(model).is_dir() else str(model)


def _place(model):
    """The parts of the path by which a model is told from another of its name; a hub id is one
    part.
    """
    if not Path(model).is_dir():
        return (str(model),)
    folder = Path(model).resolve()
    return (folder.parent if folder.name == INNER else folder).parts


def labels(asked):
    """The label of each (model, Setup); those that clash are preceded by as many parent folders as
    tell them apart.
    """
    plain = [setup.label(model) for model, setup in asked]
    names = list(plain)
    for name in {name for name in plain if plain.count(name) > 1}:
        places = {i: _place(model) for i, (model, _) in enumerate(asked) if plain[i] == name}
        different, depth = len(set(places.values())), 1
        while len({place[-depth:] for place in places.values()}) < different:
            depth += 1
        if different > 1:
            for i, place in places.items():
                model, setup = asked[i]
                names[i] = setup.label(model, str(Path(*place[-depth:])))
    return names


class Reader:
    """What a model reads: .name, .path, .folder, .tokenizer, .room. Its weights are not loaded."""

    def __init__(self, model, setup):
        self.path, self.setup, self.name = path_of(model), setup, setup.label(model)
        self.folder = model_folder(model, setup.revision, code=setup.trust_remote_code)

    @property
    def key(self):
        """What tells it from every other model, also from one of its name."""
        return self.path, self.setup

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.folder, self.setup.trust_remote_code)

    @cached_property
    def room(self):
        """The tokens of its context; None where its configuration does not say."""
        return size(read_config(self.folder), "max_position_embeddings")

    @property
    def chats(self):
        return bool(self.tokenizer.chat_template) and not self.setup.raw

    def encode(self, prompt, before=()):
        """Token ids of a prompt, through the chat template where there is one, behind the messages
        `before`.
        """
        if self.chats:
            prompt = self._in_template([*before, {"role": "user", "content": prompt}])
        ids = self.tokenizer(prompt, add_special_tokens=not self.chats)["input_ids"]
        if not ids:
            raise UserError("the prompt is empty. Give some text.")
        if self.room and len(ids) >= self.room:
            reads = f"{self.name} reads {self.room}, one of them for an answer"
            raise UserError(f"the prompt has {len(ids)} tokens; {reads}. Shorten it.")
        return ids

    def _in_template(self, messages):
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program of its own
            raise UserError(
                f"the chat template of {self.name} fails ({error}). Leave it out with --raw."
            ) from None


class Loaded(Reader):
    """A model ready to be asked: also .model, .stop."""

    def __init__(self, model, setup):
        from brittle.models.generate import stop_ids

        super().__init__(model, setup)
        self.noted, self.model = False, load(self.folder, setup)
        if setup.quantize:
            from brittle.models.quantize import quantize_

            quantize_(self.model, setup.quantize)
        if setup.filter:
            from brittle.models.filter import load_filtered

            load_filtered(self.model, Path(setup.filter))
        self.stop = stop_ids(self.model, self.tokenizer)

    @property
    def room(self):
        return context_length(self.model.config)

    def stream(self, prompt, sampling, before=()):
        """Yield (token ids of the answer so far, newest token, logits [V] it was chosen from),
        token by token.
        """
        from brittle.models.generate import stream

        answer, ids = [], self.encode(prompt, before)
        self.note_room([ids], sampling)
        pad_id = self.tokenizer.pad_token_id
        steps = stream(self.model, [ids], sampling, self.stop, pad_id, [prompt])
        for _, (token,), logits in steps:
            if token not in self.stop:
                answer += [token]
            yield answer, token, logits[0]

    def note_room(self, prompts, sampling):
        """Say where the context ends before --max-new-tokens is reached."""
        room = self.room - max(map(len, prompts))
        if room < sampling.max_new_tokens and not self.noted:
            self.noted = True
            leaves = f"the context of {self.name} leaves {room} new tokens"
            print(f"note: {leaves}, not {sampling.max_new_tokens}.", file=sys.stderr)

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def answer(self, prompts, sampling, batch_size=64):
        """The outputs (text) of all prompts, batched; a greedy one is the same whatever is asked
        beside it.
        """
        from brittle.models.generate import generate

        ids = [self.encode(p) for p in prompts]
        self.note_room(ids, sampling)
        pad_id = self.tokenizer.pad_token_id
        answers = generate(self.model, ids, sampling, self.stop, pad_id, prompts, batch_size)
        return [self.decode(answer) for answer in answers]


def load(folder, setup):
    """The model of `folder`, with the LoRA adapter of the setup merged into its weights."""
    how = (setup.device, setup.dtype, setup.trust_remote_code)
    if not setup.adapter:
        return load_model(folder, *how)
    adapter = Path(setup.adapter)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            wanted = "Give a LoRA adapter's folder, saved as safetensors."
            raise UserError(f"--adapter {adapter} holds no {name}. {wanted}")
    from brittle.models.load import load_changed

    try:
        return load_changed(adapter, folder, *how)
    except UserError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(
            f"--adapter {adapter} does not fit {folder}: {' '.join(str(error).split())[:200]}"
        ) from None
