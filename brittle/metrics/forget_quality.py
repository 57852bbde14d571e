"""What a model says of the questions of a data folder in TOFU's and MUSE's schemas.

`measure` is the only function that runs the model. It returns raw records: the log-probabilities of
every answer's tokens, which of them are the argmax, and the greedy generation. Every definition of
a metric is then arithmetic on records (forget_quality_items). `cached` keeps records by the content
of the model, the data and the settings, never by a metric's name.
"""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from brittle.base import code
from brittle.base.errors import UserError
from brittle.data.asking import Told, encode_answers, end_id, opens_trace
from brittle.data.examples import DEFAULT, Reading, prompt_ids
from brittle.data.rows import Pair, turns_of, unframed
from brittle.data.texts import read_jsonl, spread
from brittle.data.tokens import encode_prompts, join_template, marks_of
from brittle.metrics.answers import Scored, encode, score
from brittle.metrics.generated_text import say_unfinished, split_trace
from brittle.models.architectures import context_length
from brittle.models.generate import Sampling, generate, stop_ids

# set: (file, schema)
SETS = {
    "forget": ("qa_forget.jsonl", "tofu"),
    "retain": ("qa_retain.jsonl", "tofu"),
    "real_authors": ("qa_real_authors.jsonl", "tofu"),
    "world_facts": ("qa_world_facts.jsonl", "tofu"),
    "verbmem": ("verbmem_forget.jsonl", "verbmem"),
    "knowmem_forget": ("knowmem_forget_qa.jsonl", "knowmem"),
    "knowmem_retain": ("knowmem_retain_qa.jsonl", "knowmem"),
}
ASKS = {
    "tofu": ("question", "answer"),
    "verbmem": ("prompt", "gt"),
    "knowmem": ("question", "answer"),
}


TEMPLATE = "Question: {question} Answer:"


@dataclass(frozen=True)
class AskSettings:
    """How questions become prompts, and how much is generated; part of the cache's key.

    template: the prompt of a model without a chat template. reading: whether a chat model is asked
    through its own; MUSE's texts to continue (verbmem) are no questions, and never are.
    answers: `full` asks for `answer`, `short` and `auto` for `short_answer` where a row has one.
    icl: examples before a question of knowmem. runs_on, guard: device and dtype, and what the guard
    says of itself.
    """

    template: str = TEMPLATE
    answers: str = "auto"
    boundary: str = "together"
    new_tokens: int = 32
    icl: int = 0
    batch_size: int = 64
    max_samples: int = 512
    runs_on: str = ""
    guard: str = ""
    reading: Reading = DEFAULT


def find(data, max_samples):
    """{set: rows} of the files that folder `data` has.

    At most `max_samples` rows a set, spread over it. Raises UserError where there is no such file.
    """
    sets = {}
    for name, (file, schema) in SETS.items():
        path = Path(data) / file
        if path.is_file():
            sets[name] = spread(read_jsonl(path, ASKS[schema]), max_samples)
    if not sets:
        files = ", ".join(file for file, _ in SETS.values())
        raise UserError(f"{data} has none of {files}. Make them with: uv run create_datasets.py")
    return sets


class Asked(NamedTuple):
    """One question: its prompt, the true answer, its paraphrase or None, and wrong answers.

    messages: what a chat model is asked in place of the prompt; None where that is the prompt.
    """

    prompt: str
    answer: str
    paraphrase: str | None
    wrong: list[str]
    messages: list | None = None

    def answers(self):
        """The answers to score, the true one first."""
        return [self.answer, *([self.paraphrase] if self.paraphrase else []), *self.wrong]


def asked(rows, schema, settings, examples=(), marks=(), *, chats=False):
    """[Asked] of the rows of one set; `marks` are those of the tokenizer
    (data.tokens.join_template). chats: questions have messages, for a model with a chat template.

    Raises UserError for a template without {question}.
    """
    if "{question}" not in settings.template:
        raise UserError(
            f"--template {settings.template!r} has no {{question}} to put the question."
        )

    def ask(row):
        return settings.template.replace("{question}", row["question"].strip())

    shots = "".join(
        join_template(ask(e), e["answer"], marks) + "\n\n" for e in examples[: settings.icl]
    )
    turns = [
        turn
        for e in examples[: settings.icl]
        for turn in turns_of(Pair(e["question"], e["answer"]))
    ]
    questions = []
    for row in rows:
        if schema == "verbmem":
            questions.append(Asked(row["prompt"], row["gt"], None, []))
            continue
        short = settings.answers != "full" and "short_answer" in row
        answer = row["short_answer" if short else "answer"]
        paraphrase = None if short else row.get("paraphrased_answer")
        wrong = row.get("short_perturbed_answer" if short else "perturbed_answer") or []
        messages = [*turns, {"role": "user", "content": unframed(row["question"].strip())}]
        about = (answer, paraphrase, wrong, messages if chats else None)
        questions.append(Asked(shots + ask(row), *about))
    return questions


class Encoded(NamedTuple):
    """Questions as tokens: [(ids, start)] of each with each answer, and what each is asked with."""

    pairs: list
    prompts: list
    opened: bool = False  # a prompt begins a trace


def encode_plain(tokenizer, questions, room, settings):
    """The `Encoded` questions as texts, without a chat template."""
    pairs = [(question.prompt, answer) for question in questions for answer in question.answers()]
    prompts = [question.prompt for question in questions]
    if settings.boundary == "length":
        asked_with = tokenizer(prompts)["input_ids"]
    else:
        asked_with = encode_prompts(tokenizer, prompts)
    return Encoded(encode(tokenizer, pairs, room, settings.boundary), asked_with)


def encode_chats(tokenizer, questions, room, settings):
    """The `Encoded` questions through the chat template, its end mark behind each answer.

    The boundary `length` starts behind the tokens that the model is asked with.
    """
    reading, end = settings.reading, end_id(tokenizer, settings.reading)
    messages = [question.messages for question in questions]
    answers = [question.answers() for question in questions]
    prompts = [prompt_ids(tokenizer, one, reading) for one in messages]
    owners = [ids for ids, each in zip(prompts, answers, strict=True) for _ in each]
    pairs = []
    told = encode_answers(tokenizer, messages, answers, reading)
    for one, prompt in zip(told, owners, strict=True):
        start = len(prompt) if settings.boundary == "length" else one.start
        ended = Told([*one.ids, end], min(start, len(one.ids)), one.slot).cut(room)
        pairs.append((ended.ids, ended.start))
    return Encoded(pairs, prompts, opens_trace(tokenizer, reading))


def measure(model, tokenizer, rows, schema, settings, examples=()):
    """Raw records of one set, a dict for each row."""
    chats = settings.reading.templated(tokenizer) and schema != "verbmem"
    questions = asked(rows, schema, settings, examples, marks_of(tokenizer), chats=chats)
    room = context_length(model.config)
    make = encode_chats if chats else encode_plain
    encoded = make(tokenizer, questions, room, settings)
    scored = iter(score(model, encoded.pairs, tokenizer.pad_token_id, settings.batch_size))
    generated = generate(
        model,
        [ids[-(room - 1) :] for ids in encoded.prompts],
        Sampling(settings.new_tokens),
        stop_ids(model, tokenizer),
        tokenizer.pad_token_id,
        [question.prompt for question in questions],
        settings.batch_size,
    )
    records, said = [], []
    for index, (row, question) in enumerate(zip(rows, questions, strict=True)):
        text = tokenizer.decode(generated[index], skip_special_tokens=True).strip()
        spoken = split_trace(text, opened=encoded.opened)
        said.append(spoken)
        records.append(
            {
                "index": index,
                "entity": row.get("entity", index),
                "fact": row.get("fact"),
                "prompt": question.prompt,
                "gold": question.answer,
                "generation": spoken.answer,
                "trace": spoken.trace,
                "answer": next(scored),
                "paraphrase": next(scored) if question.paraphrase else None,
                "wrong": [next(scored) for _ in question.wrong],
            }
        )
    say_unfinished(said, "--new-tokens", settings.new_tokens)
    return records


def key_of(model_files, data_file, settings):
    """Digest of the contents of the model's files, of the data file and of the settings."""
    from brittle.base.files import sha256

    parts = {
        "model": [[Path(f).name, sha256(f)] for f in model_files],
        "data": [sha256(f) for f in data_file],
        "settings": asdict(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(folder, key, make):
    """What `make()` returns, kept as folder/key.json with its code; without a folder it is not.

    A file that is damaged, or was made by older code, is made anew.
    """
    from brittle.base.files import replace_text

    if folder is None:
        return make()
    path = Path(folder) / f"{key}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        records = kept["records"]
        if not code.still_true(kept["code"]):
            raise ValueError
        for r in records:
            r["answer"], r["wrong"] = Scored(*r["answer"]), [Scored(*w) for w in r["wrong"]]
            r["paraphrase"] = r["paraphrase"] and Scored(*r["paraphrase"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        with code.watch(__name__) as seen:
            records = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"code": seen.code(), "records": records}))
        return records
    code.use(kept["code"])
    return records


class Asker:
    """One model and one data folder: loaded when needed, asked once for every set and settings."""

    def __init__(self, folder, data, cache=None, device="cpu", dtype="auto", guard=None):
        self.folder, self.data, self.cache = folder, Path(data), cache
        self.device, self.dtype, self.guard = device, dtype, guard
        self.known = {}

    @functools.cached_property
    def loaded(self):
        """(model, tokenizer), inside the guard where there is one."""
        from brittle.models.guarded import load

        with code.watch(type(self.guard).__module__) as self.loading:
            return load(self.folder, self.device, self.dtype, guard=self.guard)

    def records(self, sets, settings):
        """Yield (set, raw records) of {set: rows}."""
        from brittle.base.layout import model_files
        from brittle.models.load import pick_device

        settings = replace(
            settings,
            runs_on=f"{pick_device(self.device).type} {self.dtype}",
            guard=json.dumps(self.guard.about, sort_keys=True, default=str) if self.guard else "",
        )
        for name, rows in sets.items():
            file, schema = SETS[name]
            examples = self.data / file.replace("_qa", "_qa_icl")
            use = settings.icl and schema == "knowmem" and examples.is_file()
            shots = read_jsonl(examples, ASKS[schema]) if use else ()
            files = [self.data / file, *([examples] if use else [])]
            key = key_of(model_files(self.folder), files, settings)
            if (name, key) not in self.known:

                def make(rows=rows, schema=schema, shots=shots):
                    model, tokenizer = self.loaded
                    code.again(self.loading)
                    return measure(model, tokenizer, rows, schema, settings, shots)

                self.known[name, key] = cached(self.cache, key, make)
            yield name, self.known[name, key]
