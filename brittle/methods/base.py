"""The method protocol. A method is a dataclass; its `knob` fields become flags.

Nothing else knows a method's name. What every method has:

needs_reference                      does a loss read the frozen starting model
trains(model) -> names | None        which parameters train; None is all
start(model, reference, data)        once: draw targets, measure the start
losses(forget, retain, progress)     {term: scalar}, already weighted, summed by the loop;
                                     progress goes from 0 to 1

Two more for the few that are not a sum of losses:

combine({term: [gradient, ...]}, lr) one gradient [tensor, ...] of the terms' own (NGDiff);
                                     None is their sum
fit(loop) -> history                 runs the training, once or several times (task vectors)
one_step                             `fit` makes one step, whose length `--kl-budget` may choose

And for one whose parameters take turns (sequential):

check()                              refuses knobs that do not go together
plan(steps, one_pass)                (steps, stretches): how long it trains, and lengths that each
                                     have a learning-rate schedule of their own
phase(progress) -> bool              before each step: True where new optimizers start
measures() -> {column: number}       behind each step: more columns of the history

And for one that reads more than the two sets (distill):

settle(job)                          finds models and texts beside the job's own, before anything
                                     is loaded: `texts` in place of the retain set, `beside`
                                     {name: model folder} for the record
marked(forget)                       how many texts had to be marked as forget texts
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from brittle.base.knobs import knob, log_range, retain_knob


class TextChoice(NamedTuple):
    """Rows to train on in place of the retain set, what they are called, and their files.

    is_pretraining: each is followed by the end token, as in the pretraining of the mini family.
    """

    name: str
    rows: list
    files: list
    is_pretraining: bool = False


@dataclass
class Method:
    # loss, representation, gradient, or weight-space (which needs every weight: no LoRA)
    kind: ClassVar[str] = "loss"
    needs_reference: ClassVar[bool] = False
    combine: ClassVar = None
    # of several processes each holds the whole model; otherwise the model is sharded
    replicates: ClassVar[bool] = False
    phased: ClassVar[bool] = False  # parameters take turns
    reads_forget: ClassVar[bool] = True  # does a loss read the forget texts
    unlearns: ClassVar[bool] = True  # False for a control
    last_step: ClassVar[dict | None] = None  # of one_step: {name: change}, which `fit` leaves here
    one_step: ClassVar[bool] = False
    by_length: ClassVar[bool] = False  # batches of texts of like length: less padding
    texts: ClassVar[TextChoice | None] = None  # in place of the retain set
    beside: ClassVar[dict] = {}  # {name: folder} of models that are read beside the job's
    adapters: ClassVar[bool] = False  # set by the wrappers: adapters train, not the weights
    seed: int = 0
    state: dict = field(default_factory=dict)  # numbers that must survive an interruption

    def trains(self, model):
        return None

    def start(self, model, reference, data):
        """Called once, before the training.

        model: what will be trained. reference: `with reference as frozen:` gives its starting
        state. data: `.forget` and `.retain` (data.batches.Stream of Examples) and `.tokenizer`.
        """
        self.model, self.reference = model, reference

    def losses(self, forget, retain, progress):
        raise NotImplementedError

    def check(self):
        pass

    def plan(self, steps, one_pass):
        """(optimizer steps, lengths of stretches that each have the whole learning-rate schedule).

        steps: as asked for, None where nothing was said. one_pass: those of a pass over the forget
        texts.
        """
        return steps or one_pass, ()

    def settle(self, job):
        """Called once with the unlearning.job.Job that the method is of. Raises UserError for what
        does not fit it.
        """

    def marked(self, forget):
        """How many texts had to be marked as forget texts, where the forget set has so many.

        What the retain texts are is no label: they are what is left.
        """
        return forget if self.reads_forget else 0

    def budget(self, streams):
        """A line to print before the training, where there is something to say."""

    def phase(self, progress):
        return False

    def measures(self):
        return {}

    def fit(self, loop):
        return loop()


@dataclass
class WithRetain(Method):
    """A method whose retain term can be exchanged: `--retain-loss`."""

    retain_weight: float = knob(1.0, "Weight of the retain term.", low=0, search=log_range(0.1, 30))
    retain_loss: str = retain_knob("nll")

    @property
    def needs_reference(self):
        return self.retain_loss in ("kl", "l2")

    def retain_term(self, retain):
        """retain_weight times the retain loss on the batch.

        nll: the NLL a token. kl: mean KL(p_start || p) a token. l2: mean ||h - h_start||_2 over
        tokens and blocks. The latter two are 0 at the start.
        """

        from brittle.methods import terms

        return self.retain_weight * terms.RETAIN[self.retain_loss](
            self.model, retain, self.reference
        )
