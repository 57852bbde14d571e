"""What if the owner anonymises in another way than the server's network was trained for?

Every pair of ways, and two controls: no network at all (`none`, the anonymised states as they are),
and the states of the raw texts (`oracle`).
"""

from dataclasses import replace
from typing import Any, NamedTuple

from brittle.data.items import groups_of
from brittle.data.texts import spread
from brittle.filters.blind import anonymise, fit, network
from brittle.filters.blind.estimates import examples_of, paired_states, read_public
from brittle.filters.states import read_filter_texts, states
from brittle.filters.tuning import Tuner
from brittle.maths.intervals import share
from brittle.metrics import mcq

COLUMNS = [
    "network",
    "texts",
    "site",
    "gated",
    "k",
    "strength",
    "retain_kl",
    "split",
    "accuracy",
    "low",
    "high",
    "n",
    "n_forget",
]


class Case(NamedTuple):
    """One network beside one way to anonymise the forget texts."""

    network: str
    texts: str
    examples: list  # of the texts that the server has
    estimated: Any  # [n, d] the forget states that the server takes for the true ones


class ForgetSet(NamedTuple):
    """The forget texts, the JSONL files of their private facts, and questions {split: items}."""

    texts: list
    tables: list
    items: dict


def mismatch_rows(model, tokenizer, forget, public, retain, setup, most=120):
    """Yield a row a network, anonymiser of the forget texts, and split.

    The network is trained on `public` texts anonymised by `network`. Its input are the states of
    the forget texts anonymised by `texts`. Filters follow from its output as in blind/fit.py, at
    one retain limit. forget: a ForgetSet; public: JSONL files; retain: a file; setup: BlindSetup.
    """
    pad_id, site = tokenizer.pad_token_id, setup.site
    examples = read_filter_texts(tokenizer, retain, most, setup.max_length, "retain texts")

    def states_of(some):
        read = states(model, some, pad_id, site, setup.batch_size)
        return read.states.to(model.device)

    quiet = states_of(examples)
    cases, raw = all_cases(model, tokenizer, forget, public, setup, most, states_of)
    tuner = Tuner(model, {"forget": raw, "retain": examples}, pad_id, [site], setup.batch_size)
    for case in cases:
        blind = fit.BlindStates({"mlp": case.estimated}, quiet)
        ((_, chosen, reading),) = fit.filters_of(
            model, blind, tuner, replace(setup, how=case.texts)
        )
        right = mcq.right_answers(model, tokenizer, chosen, forget.items)
        for split, hits in right.items():
            accuracy, low, high = share(hits, groups_of(forget.items[split]))
            yield {
                "network": case.network,
                "texts": case.texts,
                "site": site,
                "gated": int(setup.gate),
                "k": chosen.k,
                "strength": chosen.strength,
                "retain_kl": reading["retain_kl"],
                "split": split,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "n": len(hits),
                "n_forget": len(case.examples),
            }


def all_cases(model, tokenizer, forget, public, setup, most, states_of):
    """([Case], Examples of the raw forget texts); states_of(examples) gives states [n, d]."""

    def hidden(how, table, texts):
        hide = anonymise.Anonymiser(how, table, setup.seed, salt=str(setup.seed))
        return [hide(text) for text in texts]

    def examples(texts):
        return examples_of(tokenizer, texts, setup.max_length, "texts")[1]

    private = anonymise.read_table(forget.tables, "forget")
    facts = anonymise.read_table(public)
    texts = spread(forget.texts, most)
    originals, networks = read_public(public, 3 * most), {}
    for how in anonymise.HOW:
        anonymised = hidden(how, facts, originals)
        pairs = paired_states(model, tokenizer, originals, anonymised, setup.site, setup.max_length)
        x, y = pairs.anonymised.to(model.device), pairs.original.to(model.device)
        networks[how] = network.fit(x, y, seed=setup.seed)
    raw = examples(texts)
    cases = [Case("oracle", "raw", raw, states_of(raw))]
    for how in anonymise.HOW:
        sent = examples(hidden(how, private, texts))
        as_sent = states_of(sent)
        cases += [Case(name, how, sent, network_(as_sent)) for name, network_ in networks.items()]
        cases.append(Case("none", how, sent, as_sent))
    return cases, raw
