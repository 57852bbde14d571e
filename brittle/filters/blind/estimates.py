"""Blind unlearning, the server's half: from anonymised forget text to moments and filters, without one raw forget text.

What the server has: the model, the anonymised forget text T~, public originals with their anonymised form, and retain text.
It estimates the moments of the forget states in five ways, of which three are controls:

- `mlp`: states of T~ through a network trained on public pairs (blind_mlp.py); `mlp_kl` is trained on KL instead of MSE;
- `identity`: the states of T~ as they are;
- `template`: for every token of T~ the mean of the original states of the public anonymised text that shares most words;
- `surrogate`: T~ with its tags filled by invented names and public values, averaged over draws: no network at all.

From moments a basis (generalised eigenproblem against retain) and a strength within the retain limit follow as for any
filter. `kl` trains the basis of `mlp` instead of computing it: it drives KL(p_0 || p) on the estimated forget states up to the
KL to their average prediction (what one knows who never saw them), and down on retain states.
"""

import re

import torch

from brittle.base.errors import UserError
from brittle.data.texts import numbered_jsonl, spread, write_jsonl
from brittle.data.world import Draws, new_names
from brittle.filters.states import make_examples, states
from brittle.maths.intervals import generator
from brittle.maths.moments import Moments
from brittle.maths.precision import wide
from brittle.models.logprobs import kl_rows

COLUMN = "anonymised"
VARIANTS = ("mlp", "mlp_kl", "kl", "identity", "template", "surrogate")
TAG = re.compile(r"\[([A-Z][A-Z' -]*)\]|\bid[0-9a-f]{8}\b")


def write_blind(path, texts):
    write_jsonl(path, [{COLUMN: text} for text in texts])


def read_blind(path):
    """The texts of a blind file. Raises UserError where a row holds anything but the anonymised text."""
    texts = []
    for number, row in numbered_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get(COLUMN), str):
            raise UserError(
                f"{path} line {number} has no text '{COLUMN}'. Make the file with: hooks/blind.py anonymise"
            )
        raw = sorted(set(row) - {COLUMN})
        if raw:
            raise UserError(
                f"{path} line {number} holds raw columns beside '{COLUMN}': {', '.join(raw)}. A server must not see them: "
                "send only what hooks/blind.py anonymise wrote."
            )
        texts.append(row[COLUMN])
    return texts


def read_public(paths, limit=None):
    """Original public texts of JSONL files with question and answer (with a short_answer, the sentence is a text too) or text."""
    texts = []
    for path in paths:
        for number, row in numbered_jsonl(path):
            if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
                texts.append(
                    f"Question: {row['question']} Answer: {row.get('short_answer', row['answer'])}"
                )
                texts += [
                    row[k]
                    for k in ("answer", "paraphrased_answer")
                    if "short_answer" in row and k in row
                ]
            elif isinstance(row.get("text"), str):
                texts.append(row["text"])
            else:
                raise UserError(f"{path} line {number} has neither question and answer nor text.")
    return spread(texts, limit)


def examples_of(tokenizer, texts, max_length, name):
    """(texts of at least two tokens, their Examples), one to one."""
    long = (
        [t for t, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True) if len(ids) > 1]
        if texts
        else []
    )
    if not long:
        raise UserError(f"the {name} hold no tokens to predict. Give texts of at least two tokens.")
    return long, make_examples(tokenizer, [(None, t) for t in long], len(long), max_length, name)


def paired_states(model, tokenizer, originals, anonymised, site, max_length, batch_size=64):
    """(x [n, d], y [n, d], keys): the states of every anonymised text and those of its original, aligned by relative place.

    keys: the anonymised text and place that a row comes from. Both texts' answers start behind the same question.
    """
    both = [(t, a) for t, a in zip(originals, anonymised, strict=True) if t.strip() and a.strip()]
    lengths = (
        [[len(i) for i in tokenizer(list(part))["input_ids"]] for part in zip(*both, strict=True)]
        if both
        else [[], []]
    )
    both = [pair for pair, one, other in zip(both, *lengths, strict=True) if one > 1 and other > 1]
    if not both:
        raise UserError("the public texts hold no tokens to predict. Give more --public text.")
    found = []
    for part in zip(*both, strict=True):
        _, chosen = examples_of(tokenizer, list(part), max_length, "public texts")
        h, _, owner = states(model, chosen, tokenizer.pad_token_id, site, batch_size)
        found.append(h.split(torch.bincount(owner, minlength=len(part)).tolist()))
    x, y, keys = [], [], []
    for (_, text), original, blind in zip(both, *found, strict=True):
        place = torch.linspace(0, len(original) - 1, len(blind)).round().long()
        x.append(blind)
        y.append(original[place])
        keys += [(text, i) for i in range(len(blind))]
    return torch.cat(x), torch.cat(y), keys


def moments_of(rows):
    return Moments(rows.shape[1], rows.device).update(rows)


def nearest_template(texts, owner, keys, y, most=512):
    """[n, d]: for each row (its text by `owner`) the mean of y [m, d] over the rows of the public text that shares most words,
    at the same relative place; keys as in `paired_states`. At most `most` different public texts are compared."""
    places = {}
    for i, (text, place) in enumerate(keys):
        places.setdefault(text, {}).setdefault(place, []).append(i)
    public = list(places)[:: max(1, len(places) // most)]
    bags = [set(re.findall(r"[\w\[\]-]+", t)) for t in public]
    counts, chosen = torch.bincount(owner, minlength=len(texts)).tolist(), []
    for text, count in zip(texts, counts, strict=True):
        words = set(re.findall(r"[\w\[\]-]+", text))
        best = max(
            range(len(public)), key=lambda i: len(words & bags[i]) / max(1, len(words | bags[i]))
        )
        rows = list(places[public[best]].values())
        means = torch.stack([y[r].mean(0) for r in rows])
        chosen.append(means[torch.linspace(0, len(means) - 1, count).round().long()])
    return torch.cat(chosen)


def filled(texts, values, draws, seed=0):
    """`draws` fillings of each text: tags of names become invented names, other tags and hashes public values.

    One thing becomes one filler in a text. Texts without a tag are left out.
    """
    values = sorted(values) or ["one", "two", "three", "four"]
    made = []
    for n in range(draws):
        picks = Draws(f"fill {seed} {n}")
        made += [changed for text in texts if (changed := _fill(text, values, picks)) != text]
    return made


def _fill(text, values, picks):
    fillers = {}

    def fill(match):
        if (
            match[0] not in fillers
        ):  # a hash says nothing of its kind: a text's first is taken for the name
            name = match[1] == "NAME" or (match[1] is None and not fillers)
            fillers[match[0]] = new_names(picks, 1)[0] if name else picks.choice(values)
        return fillers[match[0]]

    return TAG.sub(fill, text)


def trained_basis(basis, head, forget, retain, limit=0.05, steps=80, rows=512, seed=0):
    """`basis` [d, k] moved by gradient: max KL(p_0 || p) on forget states, capped, minus (cap / limit) KL(p_0 || p) on retain.

    p = softmax(head(y - U U^T y)) at the post-norm site; forget, retain [n, d]. U returns to orthonormal columns by QR
    after each step. Returns (U, {cap, forget_kl, retain_kl}); the start is returned where no step was better.
    """

    def divergence(u, y):
        base = wide(head(y)).log_softmax(-1)
        filtered = wide(head(y - (y @ u) @ u.T)).log_softmax(-1)
        return kl_rows(base, filtered).mean()

    with torch.no_grad():
        base = wide(head(forget)).log_softmax(-1)
        average = (base.logsumexp(0) - torch.log(torch.tensor(float(len(base))))).expand_as(base)
        cap = kl_rows(base, wide(average).log_softmax(-1)).mean().clamp_min(1e-6)
    u = basis.clone().requires_grad_(True)
    lr = 0.5 / len(basis) ** 0.5  # half of what a coordinate of a unit vector is
    optimizer, draw = torch.optim.Adam([u], lr=lr), generator(seed, "kl filter")

    def value(f, r):
        return torch.minimum(f, cap) - cap / limit * r

    best = (float("-inf"), basis, {})
    for step in range(steps + 1):
        if step % 10 == 0:
            with torch.no_grad():
                f, r = divergence(u, forget), divergence(u, retain)
                if value(f, r) > best[0]:
                    about = {"cap": float(cap), "forget_kl": float(f), "retain_kl": float(r)}
                    best = (float(value(f, r)), u.detach().clone(), about)
        if step == steps:
            break
        picked = [
            s[torch.randint(len(s), (min(rows, len(s)),), generator=draw)] for s in (forget, retain)
        ]
        loss = -value(*(divergence(u, s) for s in picked))
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            q, r = torch.linalg.qr(u)
            u.copy_(
                q * r.diagonal().sign()
            )  # QR alone may turn a column round, away from its momentum
    return best[1], best[2]
