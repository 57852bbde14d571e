"""Blind unlearning, the server's half: from anonymised forget text to estimated forget states.

The server has the model, the anonymised forget text, public originals, which it anonymises itself,
and retain text; never a raw forget text. It estimates the forget states in several ways, of which
three are controls:

- `mlp`: states of the anonymised text through a network that is trained on public pairs
  (network.py); `mlp_kl` is trained on KL instead of MSE;
- `identity` (control): the states of the anonymised text as they are;
- `template` (control): for every token the mean of the original states of the public anonymised
  text that shares most words;
- `surrogate` (control): the anonymised text with its tags filled by invented names and public
  values, averaged over draws, without a network.

From the states' moments a basis (generalised eigenproblem against retain) and a strength within the
retain limit follow as for any filter (fit.py). `kl` trains the basis of `mlp` instead of computing
it: it drives KL(p_0 || p) on the estimated forget states up to the KL to their average prediction
(what one knows who never saw them), and down on retain states.
"""

import re
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.texts import numbered_jsonl, spread, write_jsonl
from brittle.data.world import Draws, new_names
from brittle.filters.states import make_texts, states
from brittle.maths.intervals import generator
from brittle.maths.moments import Moments
from brittle.maths.precision import wide
from brittle.models.logprobs import kl_rows

COLUMN = "anonymised"
TAG = re.compile(r"\[([A-Z][A-Z' -]*)\]|\bid[0-9a-f]{8}\b")


class Pairs(NamedTuple):
    """States of anonymised texts beside those of their originals, row by row."""

    anonymised: torch.Tensor  # [n, d]
    original: torch.Tensor  # [n, d]
    keys: list  # [n] (the anonymised text, the place in its answer) that a row comes from

    def split(self, count):
        """(the first `count` rows, the others)."""
        return Pairs(*(rows[:count] for rows in self)), Pairs(*(rows[count:] for rows in self))

    def to(self, device):
        return self._replace(
            anonymised=self.anonymised.to(device), original=self.original.to(device)
        )


def write_blind(path, texts):
    """Write a blind file: JSONL of anonymised texts and nothing else."""
    write_jsonl(path, [{COLUMN: text} for text in texts])


def read_blind(path):
    """The texts of a blind file.

    Raises UserError where a row holds anything but the anonymised text.
    """
    texts = []
    for number, row in numbered_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get(COLUMN), str):
            raise UserError(
                f"{path} line {number} has no text '{COLUMN}'. "
                "Make the file with: hooks/blind.py anonymise"
            )
        raw = sorted(set(row) - {COLUMN})
        if raw:
            raise UserError(
                f"{path} line {number} holds raw columns beside '{COLUMN}': {', '.join(raw)}. "
                "A server must not see them: send only what hooks/blind.py anonymise wrote."
            )
        texts.append(row[COLUMN])
    return texts


def public_texts(row):
    """The texts of a public row, or None for a row that has none.

    They are a question with its answer, and, where a `short_answer` answers it, the sentences too;
    else its `text`.
    """
    if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        answer = row.get("short_answer", row["answer"])
        texts = [f"Question: {row['question']} Answer: {answer}"]
        if "short_answer" in row:
            texts += [row[key] for key in ("answer", "paraphrased_answer") if key in row]
        return texts
    return [row["text"]] if isinstance(row.get("text"), str) else None


def read_public(paths, limit):
    """At most `limit` original public texts of JSONL files, spread over them; see `public_texts`.

    Raises UserError for a row without any.
    """
    texts = []
    for path in paths:
        for number, row in numbered_jsonl(path):
            of_row = public_texts(row)
            if of_row is None:
                raise UserError(f"{path} line {number} has neither question and answer nor text.")
            texts += of_row
    return spread(texts, limit)


def examples_of(tokenizer, texts, max_length, name):
    """(texts of at least two tokens, their Examples), one to one.

    Raises UserError where no text is left.
    """
    ids = tokenizer(texts)["input_ids"] if texts else []
    long = [text for text, tokens in zip(texts, ids, strict=True) if len(tokens) > 1]
    if not long:
        raise UserError(f"the {name} hold no tokens to predict. Give texts of at least two tokens.")
    return long, make_texts(tokenizer, long, len(long), max_length, name)


def paired_states(model, tokenizer, originals, anonymised, site, max_length, batch_size=64):
    """The Pairs of texts and their anonymised forms: rows are aligned by their relative place.

    Both texts' answers start behind the same question. Pairs with a text of one token are left out;
    raises UserError where none is left.
    """
    both = [(one, two) for one, two in zip(originals, anonymised, strict=True) if one.strip()]
    both = [pair for pair in both if pair[1].strip()]
    long = [has_two_tokens(tokenizer, column) for column in zip(*both, strict=True)]
    both = [pair for pair, *fits in zip(both, *long, strict=True) if all(fits)]
    if not both:
        raise UserError("the public texts hold no tokens to predict. Give more --public text.")
    by_text = []  # of originals, then of anonymised texts: [states [tokens, d] of each]
    for texts in zip(*both, strict=True):
        _, examples = examples_of(tokenizer, list(texts), max_length, "public texts")
        h, _, owner = states(model, examples, tokenizer.pad_token_id, site, batch_size)
        by_text.append(h.split(torch.bincount(owner, minlength=len(texts)).tolist()))
    x, y, keys = [], [], []
    for (_, text), original, blind in zip(both, *by_text, strict=True):
        place = torch.linspace(0, len(original) - 1, len(blind)).round().long()
        x.append(blind)
        y.append(original[place])
        keys += [(text, i) for i in range(len(blind))]
    return Pairs(torch.cat(x), torch.cat(y), keys)


def has_two_tokens(tokenizer, texts):
    """[bool]: has each text at least two tokens?"""
    return [len(ids) > 1 for ids in tokenizer(list(texts))["input_ids"]]


def moments_of(rows):
    """The Moments of states [n, d]."""
    return Moments(rows.shape[1], rows.device).update(rows)


def bag_of_words(text):
    return set(re.findall(r"[\w\[\]-]+", text))


def nearest_template(texts, owner, pairs, most=512):
    """[n, d]: for each row, whose text is `owner` [n] in `texts`, a mean original state.

    It is the mean over the rows of the public anonymised text that shares most words, at the same
    relative place. pairs: Pairs of public texts; at most `most` different ones are compared.
    """
    places = {}  # {text: {place: [row of pairs]}}
    for row, (text, place) in enumerate(pairs.keys):
        places.setdefault(text, {}).setdefault(place, []).append(row)
    public = list(places)[:: max(1, len(places) // most)]
    bags = [bag_of_words(text) for text in public]
    estimated = []
    counts = torch.bincount(owner, minlength=len(texts)).tolist()
    for text, count in zip(texts, counts, strict=True):
        words = bag_of_words(text)
        overlap = [len(words & bag) / max(1, len(words | bag)) for bag in bags]
        nearest = public[max(range(len(public)), key=overlap.__getitem__)]
        means = torch.stack([pairs.original[rows].mean(0) for rows in places[nearest].values()])
        estimated.append(means[torch.linspace(0, len(means) - 1, count).round().long()])
    return torch.cat(estimated)


def filled(texts, values, draws, seed=0):
    """`draws` fillings of each text.

    Tags of names become invented names, other tags and hashes public values. One thing becomes one
    filler in a text. Texts without a tag are left out.
    """
    values = sorted(values) or ["one", "two", "three", "four"]
    fillings = []
    for n in range(draws):
        picks = Draws(f"fill {seed} {n}")
        for text in texts:
            filling = fill_tags(text, values, picks)
            if filling != text:
                fillings.append(filling)
    return fillings


def fill_tags(text, values, picks):
    """`text` with a filler in place of each tag and hash."""
    fillers = {}

    def fill(match):
        tag = match[0]
        if tag not in fillers:
            # a hash says nothing of its kind: a text's first is taken for the name
            is_name = match[1] == "NAME" or (match[1] is None and not fillers)
            fillers[tag] = new_names(picks, 1)[0] if is_name else picks.choice(values)
        return fillers[tag]

    return TAG.sub(fill, text)


class TrainedBasis(NamedTuple):
    """A basis [d, k], and the KLs that it gives: {cap, forget_kl, retain_kl}."""

    basis: torch.Tensor
    about: dict


def trained_basis(basis, head, forget, retain, limit=0.05, *, steps=80, rows=512, seed=0):
    """`basis` [d, k] moved by gradient, for more KL on forget states and less on retain states.

    With p = softmax(head(y - U U^T y)) at the post-norm site and states forget, retain [n, d], it
    maximises KL(p_0 || p) on forget states, capped, minus (cap / limit) KL(p_0 || p) on retain
    states. U returns to orthonormal columns by QR after each step. Returns the best TrainedBasis;
    that is the start where no step was better.
    """

    def divergence(u, y):
        base = wide(head(y)).log_softmax(-1)
        filtered = wide(head(y - (y @ u) @ u.T)).log_softmax(-1)
        return kl_rows(base, filtered).mean()

    def value(forget_kl, retain_kl):
        return torch.minimum(forget_kl, cap) - cap / limit * retain_kl

    cap = kl_to_average(head, forget)
    u = basis.clone().requires_grad_()
    lr = 0.5 / len(basis) ** 0.5  # half of what a coordinate of a unit vector is
    optimizer, draw = torch.optim.Adam([u], lr=lr), generator(seed, "kl filter")
    most, best = float("-inf"), TrainedBasis(basis, {})
    for step in range(steps + 1):
        if step % 10 == 0:
            with torch.no_grad():
                forget_kl, retain_kl = divergence(u, forget), divergence(u, retain)
                if value(forget_kl, retain_kl) > most:
                    most = float(value(forget_kl, retain_kl))
                    about = {
                        "cap": float(cap),
                        "forget_kl": float(forget_kl),
                        "retain_kl": float(retain_kl),
                    }
                    best = TrainedBasis(u.detach().clone(), about)
        if step == steps:
            break
        picked = [
            states[torch.randint(len(states), (min(rows, len(states)),), generator=draw)]
            for states in (forget, retain)
        ]
        loss = -value(*(divergence(u, states) for states in picked))
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            q, r = torch.linalg.qr(u)
            # QR alone may turn a column round, away from its momentum
            u.copy_(q * r.diagonal().sign())
    return best


@torch.no_grad()
def kl_to_average(head, states):
    """Mean KL from each row's prediction to the average prediction of states [n, d].

    It is what one loses who knows no more than the average.
    """
    base = wide(head(states)).log_softmax(-1)
    average = (base.logsumexp(0) - torch.log(torch.tensor(float(len(base))))).expand_as(base)
    return kl_rows(base, wide(average).log_softmax(-1)).mean().clamp_min(1e-6)
