"""The server's work: forget states estimated by every variant of estimates.py, and filters."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from brittle.base.errors import UserError
from brittle.filters.basis import check_basis, make_basis, take_tensors
from brittle.filters.blind import anonymise, estimates, network
from brittle.filters.fit import WIDEST
from brittle.filters.gate import quadratic, threshold
from brittle.filters.states import states
from brittle.filters.strength import within
from brittle.filters.target import Limits
from brittle.filters.tuning import Tuner
from brittle.maths.precision import wide
from brittle.models.architectures import architecture, logit_step
from brittle.models.filter import Filter

TRAIN = 0.85  # of the pairs; the others say what the network is worth
FALSE_ALARMS = 0.01  # of retain tokens that may trip the gate
COUNTS = (2, 4, 8, 16, 32, 64)  # directions to try


@dataclass
class BlindSetup:
    """How the forget texts were anonymised, where states are read, and how filters are made.

    `limit` is the retain limit, in nats a token; `draws` are fillings a text of the control
    `surrogate`.
    """

    how: str = "template"
    site: str = "post_norm"
    limit: float = 0.05
    draws: int = 3
    basis: str = "auto"
    gate: bool = False
    max_length: int = 256
    batch_size: int = 64
    seed: int = 0

    def check(self):
        """Raise UserError for a basis that is none, or that needs more than states."""
        check_basis(self.basis, others=("auto",))
        if self.basis == "loss":
            raise UserError(
                "--basis loss needs gradients of the forget texts, which the server never reads. "
                "Choose another, such as gep."
            )
        return self

    def basis_name(self):
        if self.basis != "auto":
            return self.basis
        return "pca" if self.gate else "gep"


@dataclass
class BlindStates:
    """Estimated forget states [n, d] by variant, and the states [m, d] of the retain set.

    `networks` made some of them; `scores` say what these are worth, and `pairs` on how many rows
    they were trained.
    """

    rows: dict
    retain: torch.Tensor
    networks: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    pairs: int = 0


class BlindFilter(NamedTuple):
    """A variant's filter at its strength, and its reading (see filters/target.py)."""

    variant: str
    filter: Filter
    reading: dict


def unembedding(model):
    """rows [n, d] -> logits [n, V], in float32."""
    module = model.get_output_embeddings()
    weight = wide(module.weight.detach())
    bias = None if module.bias is None else wide(module.bias.detach())
    step = logit_step(model.config)
    return lambda rows: step(torch.nn.functional.linear(wide(rows), weight, bias))


def estimate(model, tokenizer, texts, public, retain, setup):
    """(BlindStates, Examples of the anonymised `texts`).

    public: JSONL files of originals; retain: Examples; setup: BlindSetup.
    """

    def states_of(examples):
        pad_id = tokenizer.pad_token_id
        return states(model, examples, pad_id, setup.site, setup.batch_size)

    table = anonymise.read_table(public)
    pairs = public_pairs(model, tokenizer, public, table, setup, most=max(len(texts), 8))
    # pairs stand in the order of the file, so no entity is on both sides
    train, test = pairs.split(int(TRAIN * len(pairs.keys)))
    texts, asked = estimates.examples_of(tokenizer, texts, setup.max_length, "anonymised texts")
    read = states_of(asked)
    forget = read.states.to(model.device)
    retain_rows = states_of(retain).states.to(model.device)
    blind = BlindStates({}, retain_rows, pairs=len(train.keys))
    head = unembedding(model) if setup.site == "post_norm" else None
    losses = {"mlp": "mse", "mlp_kl": "kl"} if head else {"mlp": "mse"}
    for variant, loss in losses.items():
        trained = network.fit(train.anonymised, train.original, head, loss, seed=setup.seed)
        blind.networks[variant] = trained
        blind.scores[variant] = network.scores(trained, train, test)
        blind.rows[variant] = trained(forget)
    if head:
        blind.rows["kl"] = blind.rows["mlp"]
    blind.rows["identity"] = forget
    blind.rows["template"] = estimates.nearest_template(texts, read.owner, train)
    fillings = estimates.filled(texts, table.kinds, setup.draws, setup.seed)
    if fillings:
        _, examples = estimates.examples_of(
            tokenizer, fillings, setup.max_length, "surrogate texts"
        )
        blind.rows["surrogate"] = states_of(examples).states.to(model.device)
    else:
        print(
            f"note: texts of --how {setup.how} have no tags to fill: "
            "the control `surrogate` would be `identity` itself."
        )
    return blind, asked


def public_pairs(model, tokenizer, public, table, setup, most):
    """The Pairs, on the model's device, of at most `most` public texts."""
    originals = estimates.read_public(public, most)
    hide = anonymise.Anonymiser(setup.how, table, setup.seed)
    anonymised = [hide(text) for text in originals]
    pairs = estimates.paired_states(
        model, tokenizer, originals, anonymised, setup.site, setup.max_length, setup.batch_size
    )
    return pairs.to(model.device)


def detector(forget, tuner, setup):
    """{gate, curve, threshold, offset} of a filter that acts on forget-like tokens alone.

    Forget states are told from all retain tokens at the site, and it is silent on 99 % of those. A
    token that trips it keeps the average forget state. forget: Moments.
    """
    quiet = tuner.caches["retain"].tokens(setup.site)
    gate, curve = quadratic(forget, estimates.moments_of(quiet))
    nothing = torch.zeros(len(gate), 1)
    scoring = Filter(setup.site, nothing, gate=gate.float(), curve=curve.float()).to(quiet.device)
    return {
        "gate": scoring.gate,
        "curve": scoring.curve,
        "offset": forget.mean.float(),
        "threshold": threshold([scoring.score(quiet)], FALSE_ALARMS),
    }


def at_limit(tuner, chosen, limits):
    """(the filter at the largest strength within the limits, its reading)."""
    curve = tuner.curve(chosen)
    convex = tuner.is_convex(chosen.site)
    strength = within(curve, limits, convex=convex, points=9, tolerance=1e-2)
    return chosen.at(strength), curve(strength)


def strongest(tuner, filters, limits):
    """(filter at its strength, reading): of `filters`, the one that takes most forget energy.

    Each is taken at the largest strength within the limits. A server without forget text has no
    better measure; with few directions the budget is never spent.
    """
    best, most = None, -1.0
    for whole in filters:
        chosen, reading = at_limit(tuner, whole, limits)
        strength = chosen.strength
        taken = (2 * strength - strength**2) * chosen.about["energy_forget"]
        if taken > most:
            best, most = (chosen, reading), taken
        if strength < 1:  # the budget is spent
            break
    return best


def make_filters(model, blind, asked, retain, pad_id, setup):
    """Yield a BlindFilter a variant of BlindStates, within the limit on the Examples `retain`.

    An oblique basis leaves the variant `kl` out, which trains an orthogonal one, and says so.
    asked: Examples of the anonymised texts.
    """
    sets = {"forget": asked, "retain": retain}
    tuner = Tuner(model, sets, pad_id, [setup.site], setup.batch_size)
    yield from filters_of(model, blind, tuner, setup)


def filters_of(model, blind, tuner, setup):
    """Those of `make_filters`, the retain limit kept on the tuner's retain set."""
    limits, retain = Limits(setup.limit, setup.limit), estimates.moments_of(blind.retain)
    for variant, rows in blind.rows.items():
        forget = estimates.moments_of(rows)
        gate = detector(forget, tuner, setup) if setup.gate else {}
        counts = [min(WIDEST, forget.width)] if setup.gate else COUNTS

        def of_size(k, forget=forget, variant=variant, gate=gate):
            basis, about = make_basis(setup.basis_name(), forget, retain, k)
            tensors = gate | take_tensors(about)
            about |= {
                "blind": variant,
                "how": setup.how,
                "architecture": architecture(model.config),
            }
            return Filter(setup.site, basis.float(), about=about, **tensors).to(model.device)

        filters = (of_size(k) for k in counts if k <= forget.width)
        chosen, reading = strongest(tuner, filters, limits)
        if variant == "kl":
            if chosen.read is not None:
                print(
                    f"note: variant `kl` trains an orthogonal filter, and --basis {setup.basis} "
                    "makes an oblique one: `kl` is left out."
                )
                continue
            chosen, reading = train_further(model, tuner, chosen, blind, limits, setup)
        yield BlindFilter(variant, chosen, reading)


def train_further(model, tuner, chosen, blind, limits, setup):
    """(filter at its strength, reading): the variant `kl`, trained from the basis of `chosen`."""
    trained = estimates.trained_basis(
        chosen.basis,
        unembedding(model),
        blind.rows["mlp"],
        blind.retain,
        setup.limit,
        seed=setup.seed,
    )
    about = {f"trained_{name}": value for name, value in trained.about.items()}
    whole = replace(chosen, basis=trained.basis, about={**chosen.about, **about})
    return at_limit(tuner, whole.at(1.0), limits)
