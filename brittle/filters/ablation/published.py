"""What a published filter gives away: tokens, names, and whose texts its anonymiser's network was trained on."""

import torch

from brittle.base.errors import UserError
from brittle.data.texts import read_jsonl
from brittle.filters.basis import top
from brittle.filters.blind import anonymise, estimates
from brittle.filters.blind.network import fit
from brittle.maths.intervals import auc_bounds, auc_variance, generator
from brittle.maths.precision import wide

HOW = anonymise.HOW
TOKENS = ["filter", "direction", "side", "rank", "token", "logit"]
ATTACKS = ["attack", "what", "value", "low", "high", "chance", "n"]


@torch.no_grad()
def promoted(model, tokenizer, made, count=5):
    """Yield the tokens that each direction of a filter adds most to and takes most from, by logit W u."""
    weight = wide(model.get_output_embeddings().weight)
    for j in range(min(made.k, 16)):
        logits = weight @ made.basis[:, j].to(weight)
        for side, ranked in (("promoted", logits.topk(count)), ("demoted", (-logits).topk(count))):
            for rank, token in enumerate(ranked.indices.tolist()):
                yield {
                    "direction": j,
                    "side": side,
                    "rank": rank,
                    "token": tokenizer.decode([token]),
                    "logit": float(logits[token]),
                }


def recovered(before, after, k):
    """[d, k] the directions that a published unembedding lost: the leading right singular vectors of W' - W."""
    change = after.double() - before.double()
    return top(change.T @ change, k)[1]


@torch.no_grad()
def names_in(model, tokenizer, u, names, decoys):
    """(AUC of forget names against decoys by their energy in the span of u, energies of both): can a reader of the published
    basis tell whose facts it removes? A name's vector is the mean of its tokens' input embeddings."""
    table = wide(model.get_input_embeddings().weight)

    def energy(name):
        ids = tokenizer(" " + name, add_special_tokens=False)["input_ids"]
        x = table[torch.tensor(ids, device=table.device)].mean(0)
        return float((u.to(x).T @ x).square().sum() / x.square().sum())

    scores = [energy(n) for n in [*names, *decoys]]
    return told_apart(scores, [1] * len(names) + [0] * len(decoys))


def entities(items):
    """Names that questions ask about: the capitalised words that stand in one entity's questions and in no other's."""
    owner = {}
    for item in items:
        for word in item["question"].replace("?", " ").split():
            if word[:1].isupper() and word.lower() not in ("question:", "answer:", "what", "which"):
                owner.setdefault(word, set()).add(
                    "/".join(str(item.get("fact", "")).split("/")[:2])
                )
    return sorted(word for word, found in owner.items() if len(found) == 1)


def told_apart(scores, labels):
    """(AUC, low, high) by DeLong's variance, on the logit scale."""
    value, variance = auc_variance(torch.as_tensor(scores), torch.as_tensor(labels))
    return value, *auc_bounds(value, variance, min(sum(labels), len(labels) - sum(labels)))


def members(model, tokenizer, public, how, site, most=60, seed=0):
    """Rows of ATTACKS: does the published network of blind.py tell on whose texts it was trained?

    A network is trained on the pairs of half of the public entities (at most `most`, halved by `seed`). Who has an entity's texts
    takes them for trained on where the network's squared error is small: AUC over entities, members against the others.
    The control is the error of the states as they are, which knows of no network.
    """
    texts = {}
    for path in public:
        for row in read_jsonl(path, ("entity", "question", "answer")):
            asked = f"Question: {row['question']} Answer: {row.get('short_answer', row['answer'])}"
            said = [asked, row["answer"]]
            texts.setdefault(row["entity"], []).extend(said)
    if len(texts) < 8:
        raise UserError(
            f"{', '.join(map(str, public))}: {len(texts)} entities are too few to tell members from others (8)."
        )
    drawn = torch.randperm(len(texts), generator=generator(seed, "members")).tolist()[:most]
    names = [list(texts)[i] for i in drawn]
    flat = [(i, t) for i, name in enumerate(names) for t in texts[name]]
    hide = anonymise.Anonymiser(how, anonymise.read_table(public), seed, salt=str(seed))
    x, y, keys = estimates.paired_states(
        model, tokenizer, [t for _, t in flat], [hide(t) for _, t in flat], site, 256
    )
    starts = torch.tensor([place == 0 for _, place in keys]).cumsum(0) - 1
    if int(starts[-1]) + 1 != len(flat):
        raise UserError(
            f"{', '.join(map(str, public))}: texts of one token cannot be paired. Leave them out."
        )
    owner = torch.tensor([i for i, _ in flat])[starts]
    inside, labels = owner < len(names) // 2, [int(i < len(names) // 2) for i in range(len(names))]
    x, y = x.to(model.device), y.to(model.device)
    network = fit(x[inside], y[inside], seed=seed)
    for what, guess in (
        ("the network's error", network(x)),
        ("control: distance of the states themselves", x),
    ):
        error = (guess - y).square().mean(1).double().cpu()
        mean = [-float(error[owner == i].mean()) for i in range(len(names))]
        value, low, high = told_apart(mean, labels)
        yield {"attack": "membership of the pairs", "what": f"{how}: {what}", "value": value, "low": low, "high": high,
               "chance": 0.5, "n": len(names)}  # fmt: skip


def read_names(model, tokenizer, made, names):
    """Rows of ATTACKS: the AUC with which a reader of the basis, or of W' - W, tells forget names from other names."""
    from brittle.filters.bake import folded

    weight = model.get_output_embeddings().weight.detach()
    read = {"basis": made.basis}
    if made.site == "post_norm" and made.linear:
        read["W' - W"] = recovered(weight, folded(weight, made), made.k)
    for source, u in read.items():
        for other in ("retain", "general"):
            if names["forget"] and names[other]:
                value, low, high = names_in(model, tokenizer, u, names["forget"], names[other])
                what = f"{source} of {made.site}, k {made.k}: forget names against {other} names"
                count = len(names["forget"]) + len(names[other])
                yield dict(
                    zip(
                        ATTACKS,
                        ("names by energy", what, value, low, high, 0.5, count),
                        strict=True,
                    )
                )
