"""What a published filter gives away.

That is: tokens, names, and whose texts its anonymiser's network was trained on.
"""

from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.data.texts import read_jsonl
from brittle.filters.bake import folded
from brittle.filters.basis import top
from brittle.filters.blind import anonymise, estimates
from brittle.filters.blind.network import fit
from brittle.maths.intervals import fold_auc, generator
from brittle.maths.precision import wide

TOKENS = ["filter", "direction", "side", "rank", "token", "logit"]
ATTACKS = ["attack", "what", "value", "low", "high", "chance", "n"]
NO_NAMES = ("question:", "answer:", "what", "which")  # capitalised in every question
FEWEST_ENTITIES = 8
MOST_DIRECTIONS = 16  # whose tokens are shown


class AucInterval(NamedTuple):
    """An AUC with its 95 % interval (`intervals.fold_auc`)."""

    value: float
    low: float
    high: float


def auc_with_interval(scores, labels):
    """The AucInterval of scores [n], labels 1 or 0 [n]."""
    return AucInterval(*fold_auc(scores, labels, torch.zeros(len(labels))))


@torch.no_grad()
def promoted(model, tokenizer, chosen, count=5):
    """Yield the tokens that each direction of a filter adds most to, and takes most from.

    By the logits W u of a direction u.
    """
    weight = wide(model.get_output_embeddings().weight)
    for j in range(min(chosen.k, MOST_DIRECTIONS)):
        logits = weight @ chosen.basis[:, j].to(weight)
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
    """[d, k] the directions that a published unembedding lost.

    They are the leading right singular vectors of W' - W, from before and after [V, d].
    """
    change = after.double() - before.double()
    return top(change.T @ change, k)[1]


@torch.no_grad()
def names_in(model, tokenizer, u, names, decoys):
    """The AucInterval of forget names against decoys, by their energy in the span of u [d, k].

    Can a reader of the published basis tell whose facts it removes? A name's vector is the mean of
    its tokens' input embeddings.
    """
    table = wide(model.get_input_embeddings().weight)

    def energy(name):
        ids = tokenizer(" " + name, add_special_tokens=False)["input_ids"]
        x = table[torch.tensor(ids, device=table.device)].mean(0)
        return float((u.to(x).T @ x).square().sum() / x.square().sum())

    scores = [energy(name) for name in [*names, *decoys]]
    return auc_with_interval(scores, [1] * len(names) + [0] * len(decoys))


def entity_names(items):
    """Names that questions ask about, sorted.

    They are the capitalised words that stand in one entity's questions and in no other's.
    """
    owners = {}
    for item in items:
        entity = "/".join(str(item.get("fact", "")).split("/")[:2])
        for word in item["question"].replace("?", " ").split():
            if word[:1].isupper() and word.lower() not in NO_NAMES:
                owners.setdefault(word, set()).add(entity)
    return sorted(word for word, entities in owners.items() if len(entities) == 1)


def texts_by_entity(public):
    """{entity: its texts} of public JSONL files: each question with its answer, and the sentence.

    Raises UserError for too few entities.
    """
    texts = {}
    for path in public:
        for row in read_jsonl(path, ("entity", "question", "answer")):
            answer = row.get("short_answer", row["answer"])
            asked = f"Question: {row['question']} Answer: {answer}"
            texts.setdefault(row["entity"], []).extend([asked, row["answer"]])
    if len(texts) < FEWEST_ENTITIES:
        raise UserError(
            f"{', '.join(map(str, public))}: {len(texts)} entities are too few to tell members "
            f"from others ({FEWEST_ENTITIES})."
        )
    return texts


def pairs_by_entity(model, tokenizer, public, hide, site, *, most, seed):
    """(Pairs of at most `most` entities' texts, entity [n] of each row, number of entities).

    hide(text) anonymises. Entities are drawn by `seed` and numbered in the order drawn. Raises
    UserError for texts of one token.
    """
    texts = texts_by_entity(public)
    drawn = torch.randperm(len(texts), generator=generator(seed, "members")).tolist()[:most]
    names = [list(texts)[i] for i in drawn]
    originals = [text for name in names for text in texts[name]]
    entity = torch.tensor([i for i, name in enumerate(names) for _ in texts[name]])
    anonymised = [hide(text) for text in originals]
    pairs = estimates.paired_states(model, tokenizer, originals, anonymised, site, 256)
    text_of_row = torch.tensor([place == 0 for _, place in pairs.keys]).cumsum(0) - 1
    if int(text_of_row[-1]) + 1 != len(originals):
        raise UserError(
            f"{', '.join(map(str, public))}: texts of one token cannot be paired. Leave them out."
        )
    return pairs, entity[text_of_row], len(names)


def members(model, tokenizer, public, how, site, *, most=60, seed=0):
    """Rows of ATTACKS: does a published network of blind unlearning tell on whose texts it trained?

    A network is trained on the pairs of half of the public entities (at most `most`, halved by
    `seed`). Who has an entity's texts takes them for trained on where the network's squared error
    is small: AUC over entities, members against the others. The control is the error of the states
    as they are, which knows of no network.
    """
    table = anonymise.read_table(public)
    hide = anonymise.Anonymiser(how, table, seed, salt=str(seed))
    pairs, entity, count = pairs_by_entity(
        model, tokenizer, public, hide, site, most=most, seed=seed
    )
    x, y = pairs.anonymised.to(model.device), pairs.original.to(model.device)
    trained_on = entity < count // 2
    labels = [int(i < count // 2) for i in range(count)]
    network = fit(x[trained_on], y[trained_on], seed=seed)
    guesses = {
        "the network's error": network(x),
        "control: distance of the states themselves": x,
    }
    for what, guess in guesses.items():
        error = (guess - y).square().mean(1).double().cpu()
        scores = [-float(error[entity == i].mean()) for i in range(count)]
        yield {
            "attack": "membership of the pairs",
            "what": f"{how}: {what}",
            **auc_with_interval(scores, labels)._asdict(),
            "chance": 0.5,
            "n": count,
        }


def read_names(model, tokenizer, chosen, names):
    """Rows of ATTACKS: how well a reader tells forget names from other names.

    The reader has the basis, or W' - W. names: {forget, retain, general: [name]}.
    """
    weight = model.get_output_embeddings().weight.detach()
    sources = {"basis": chosen.basis}
    if chosen.site == "post_norm" and chosen.linear:
        sources["W' - W"] = recovered(weight, folded(weight, chosen), chosen.k)
    for source, u in sources.items():
        for other in ("retain", "general"):
            if names["forget"] and names[other]:
                interval = names_in(model, tokenizer, u, names["forget"], names[other])
                yield {
                    "attack": "names by energy",
                    "what": f"{source} of {chosen.site}, k {chosen.k}: "
                    f"forget names against {other} names",
                    **interval._asdict(),
                    "chance": 0.5,
                    "n": len(names["forget"]) + len(names[other]),
                }
