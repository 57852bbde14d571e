"""What if the owner anonymises in another way than the server's network was trained for? Every pair of ways, and controls."""

from dataclasses import replace

from brittle.data.items import groups_of
from brittle.data.texts import spread
from brittle.filters import states as states_module
from brittle.filters import tuning
from brittle.filters.blind import anonymise, fit
from brittle.filters.blind import network as network_module
from brittle.filters.blind.estimates import examples_of, paired_states, read_public
from brittle.maths import intervals
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
CONTROLS = ("none", "oracle")  # the anonymised states as they are; the states of the raw texts


def rows(model, tokenizer, texts, tables, public, retain, items, setup, most=120):
    """Yield a row a network, anonymiser of the forget `texts`, and split.

    The network is trained on `public` texts anonymised by `network`, its input are the states of `texts` anonymised by `texts`;
    filters follow from its output as in blind_fit.py, at one retain limit. tables: JSONL of the forget set's private facts.
    """
    pad_id, site = tokenizer.pad_token_id, setup.site
    private, facts, texts = (
        anonymise.read_table(tables, "forget"),
        anonymise.read_table(public),
        spread(texts, most),
    )
    kept = spread(
        states_module.read_examples(tokenizer, retain, most, setup.max_length, "retain texts"), most
    )

    def states(examples):
        return states_module.states(model, examples, pad_id, site, setup.batch_size)[0].to(
            model.device
        )

    def hidden(how, table, chosen):
        return list(map(anonymise.Anonymiser(how, table, setup.seed, salt=str(setup.seed)), chosen))

    quiet, originals, networks = states(kept), read_public(public, 3 * most), {}
    for how in anonymise.HOW:
        x, y, _ = paired_states(
            model, tokenizer, originals, hidden(how, facts, originals), site, setup.max_length
        )
        networks[how] = network_module.fit(x.to(model.device), y.to(model.device), seed=setup.seed)
    sent = {
        how: examples_of(tokenizer, hidden(how, private, texts), setup.max_length, "texts")[1]
        for how in anonymise.HOW
    }
    raw = examples_of(tokenizer, texts, setup.max_length, "texts")[1]
    cases = [("oracle", "raw", raw, states(raw))]
    for how, asked in sent.items():
        read = states(asked)
        cases += [(name, how, asked, network(read)) for name, network in networks.items()]
        cases.append(("none", how, asked, read))
    tuner = tuning.Tuner(model, {"forget": raw, "retain": kept}, pad_id, [site], setup.batch_size)
    for name, how, asked, found in cases:
        made, reading = filter_of(model, tuner, found, quiet, replace(setup, how=how))
        for split, hits in mcq.right_answers(model, tokenizer, made, items).items():
            accuracy, low, high = intervals.share(hits, groups_of(items[split]))
            yield {"network": name, "texts": how, "site": site, "gated": int(setup.gate), "k": made.k, "strength": made.strength,
                   "retain_kl": reading["retain_kl"], "split": split, "accuracy": accuracy, "low": low, "high": high,
                   "n": len(hits), "n_forget": len(asked)}  # fmt: skip


def filter_of(model, tuner, found, quiet, setup):
    """(filter, reading) of estimated forget states [n, d] against retain states; of the tuner's sets only retain is used."""
    estimates = fit.Estimates({"mlp": found}, quiet)
    ((_, made, reading),) = fit.filters_of(model, estimates, tuner, setup)
    return made, reading
