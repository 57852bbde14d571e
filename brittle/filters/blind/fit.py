"""The server's work as one object: estimated forget states by every variant of blind.py, and a filter from each."""

from dataclasses import dataclass, field, replace

import torch

from brittle.filters import tuning
from brittle.filters.basis import make_basis
from brittle.filters.blind import anonymise, estimates
from brittle.filters.blind import network as network_module
from brittle.filters.fit import WIDEST
from brittle.filters.gate import quadratic, threshold
from brittle.filters.states import states
from brittle.maths.precision import wide
from brittle.models.architectures import architecture
from brittle.models.filter import Filter

TRAIN = 0.85  # of the pairs; the others say what the network is worth
FALSE_ALARMS = 0.01  # of retain tokens that may trip the gate
COUNTS = (2, 4, 8, 16, 32, 64)  # directions to try


@dataclass
class Setup:
    """How the forget texts were anonymised, where states are read, and the retain limit in nats a token."""

    how: str = "template"
    site: str = "post_norm"
    limit: float = 0.05
    draws: int = 3
    basis: str = "auto"
    gate: bool = False
    max_length: int = 256
    batch_size: int = 64
    seed: int = 0


@dataclass
class Estimates:
    """States [n, d] by variant, the networks that made some of them with their scores, and the retain set's states."""

    rows: dict
    retain: torch.Tensor
    networks: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    pairs: int = 0


def unembedding(model):
    """rows [n, d] -> logits [n, V], in float32."""
    module = model.get_output_embeddings()
    weight, bias = wide(module.weight.detach()), module.bias
    return lambda rows: torch.nn.functional.linear(
        wide(rows), weight, None if bias is None else wide(bias.detach())
    )


def estimate(model, tokenizer, texts, public, retain, setup):
    """(Estimates, Examples of the anonymised `texts`). `public` are JSONL files of originals, `retain` Examples."""

    def of(examples):
        h, _, owner = states(model, examples, tokenizer.pad_token_id, setup.site, setup.batch_size)
        return h.to(model.device), owner

    table, originals = (
        anonymise.read_table(public),
        estimates.read_public(public, max(len(texts), 8)),
    )
    hide = anonymise.Anonymiser(setup.how, table, setup.seed)
    pairs = estimates.paired_states(
        model,
        tokenizer,
        originals,
        [hide(t) for t in originals],
        setup.site,
        setup.max_length,
        setup.batch_size,
    )
    x, y, keys = pairs[0].to(model.device), pairs[1].to(model.device), pairs[2]
    cut = int(TRAIN * len(x))  # pairs stand in the order of the file, so no entity is on both sides
    train, test = (x[:cut], y[:cut], keys[:cut]), (x[cut:], y[cut:], keys[cut:])
    texts, asked = estimates.examples_of(tokenizer, texts, setup.max_length, "anonymised texts")
    forget, owner = of(asked)
    found = Estimates({}, of(retain)[0], pairs=cut)
    head = unembedding(model) if setup.site == "post_norm" else None
    for variant, loss in (("mlp", "mse"), *([("mlp_kl", "kl")] if head else [])):
        network = found.networks[variant] = network_module.fit(
            *train[:2], head, loss, seed=setup.seed
        )
        found.scores[variant], found.rows[variant] = (
            network_module.scores(network, train, test),
            network(forget),
        )
    if head:
        found.rows["kl"] = found.rows["mlp"]
    found.rows |= {
        "identity": forget,
        "template": estimates.nearest_template(texts, owner, train[2], train[1]),
    }
    fillings = estimates.filled(texts, table.kinds, setup.draws, setup.seed)
    if fillings:
        found.rows["surrogate"] = of(
            estimates.examples_of(tokenizer, fillings, setup.max_length, "surrogate texts")[1]
        )[0]
    else:
        print(
            f"note: texts of --how {setup.how} have no tags to fill: the control `surrogate` would be `identity` itself."
        )
    return found, asked


def detector(forget, tuner, setup):
    """{gate, curve, threshold, offset}: forget states against all retain tokens at the site, silent on 99 % of those. What is
    left of a token that trips it is the average forget state."""
    quiet = tuner.caches["retain"].tokens(setup.site)
    gate, curve = quadratic(forget, estimates.moments_of(quiet))
    made = Filter(setup.site, torch.zeros(len(gate), 1), gate=gate.float(), curve=curve.float()).to(
        quiet.device
    )
    found = {"gate": made.gate, "curve": made.curve, "offset": forget.mean.float()}
    return {**found, "threshold": threshold([made.score(quiet)], FALSE_ALARMS)}


def strongest(tuner, make, limits, convex, counts):
    """The filter, of those that make(k) gives for k in `counts`, that takes most energy from the estimated forget states within
    the limits. A server without forget text has no better measure, and with few directions the budget is never spent."""
    best, most = None, -1.0
    for k in counts:
        made = make(k)
        if made is None:
            break
        curve = tuner.curve(made)
        strength = tuning.within(curve, limits, convex=convex, points=9, tolerance=1e-2)
        taken = (2 * strength - strength**2) * made.about["energy_forget"]
        if taken > most:
            best, most = (made.at(strength), curve(strength)), taken
        if strength < 1:  # the budget is spent
            break
    return best


def make_filters(model, found, asked, retain, pad_id, setup):
    """Yield (variant, Filter at its strength, its reading): directions by energy against retain, strength within the limit."""
    tuner = tuning.Tuner(
        model, {"forget": asked, "retain": retain}, pad_id, [setup.site], setup.batch_size
    )
    yield from filters_of(model, found, tuner, setup)


def filters_of(model, found, tuner, setup):
    """Those of `make_filters`, the retain limit kept on the tuner's retain set."""
    limits, kept = tuning.Limits(setup.limit, setup.limit), estimates.moments_of(found.retain)
    for variant, rows in found.rows.items():
        moments = estimates.moments_of(rows)
        gate = detector(moments, tuner, setup) if setup.gate else {}
        name = setup.basis if setup.basis != "auto" else "pca" if gate else "gep"

        def make(k, moments=moments, variant=variant, gate=gate, name=name):
            if k > moments.width:
                return None
            basis, about = make_basis(name, moments, kept, k)
            about |= {
                "blind": variant,
                "how": setup.how,
                "architecture": architecture(model.config),
            }
            return Filter(setup.site, basis.float(), about=about, **gate).to(model.device)

        convex = setup.site == "post_norm"
        made, reading = strongest(
            tuner, make, limits, convex, [min(WIDEST, moments.width)] if gate else COUNTS
        )
        if variant == "kl":
            head, rows = unembedding(model), found.rows["mlp"]
            basis, about = estimates.trained_basis(
                made.basis, head, rows, found.retain, setup.limit, seed=setup.seed
            )
            made = replace(
                made,
                basis=basis,
                about={**made.about, **{f"trained_{name}": v for name, v in about.items()}},
            )
            made = made.at(1.0)
            curve = tuner.curve(made)
            strength = tuning.within(curve, limits, convex=convex, points=9, tolerance=1e-2)
            made, reading = made.at(strength), curve(strength)
        yield variant, made, reading
