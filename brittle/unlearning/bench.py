"""Trials of a search on one model: it is loaded once, and each trial starts from its weights.

A trial trains as brittle/unlearning/run.py does, and is measured on questions of half A, on the
retain and general questions and on neutral text. No question of half B is asked, and the forget
texts kept out of training, which tell half B as well, are not read.
"""

from collections.abc import Callable
from dataclasses import dataclass

from brittle.base.errors import UserError
from brittle.data.batches import encode
from brittle.data.rows import Pair, unframed
from brittle.methods.base import Method
from brittle.metrics import mcq
from brittle.models.architectures import context_length
from brittle.models.logprobs import mean_nll
from brittle.training.steps import StepHook
from brittle.unlearning.goal import ATTACKED, TrialMeasures
from brittle.unlearning.run import Measured, Training
from brittle.unlearning.search import Broken, Pruned, Refused

QUARTERS = (1, 2, 3)


def of_half_a(items):
    """The forget questions without those of half B."""
    return [item for item in items if item.get("half") != "B"]


class Quarters(StepHook):
    """Measures after each quarter of the steps; ends the training where `report` raises Pruned."""

    def __init__(self, bench, report):
        self.bench, self.report = bench, report
        self.started = self.pruned = False
        self.marks = {}  # {step: quarter}

    def start(self, names):
        self.started = True

    def plan(self, steps):
        """The marks of a run of so many steps; the last one is measured when it is done."""
        marks = {round(steps * quarter / 4): quarter for quarter in QUARTERS}
        self.marks = {step: quarter for step, quarter in marks.items() if 0 < step < steps}

    def after_step(self, step, row):
        if step not in self.marks:
            return False
        self.bench.model.eval()
        try:
            self.report(self.marks[step], self.bench.measures())
        except Pruned:
            self.pruned = True
        self.bench.model.train()
        return self.pruned


@dataclass
class TrialBench(Training):
    """`Training` of one job after the other.

    make_job  make_job(method, {name: value}) -> Job; raises UserError where they do not fit
    attack    attack(model, tokenizer) -> forget accuracy under it, on questions that it did not
              train on; None for none. It leaves the model as it was.
    """

    make_job: Callable = None
    attack: Callable | None = None

    def open(self):
        """Load the model and measure it as it is. Returns its accuracies."""
        self.load()
        self.weights = self.copy_weights()
        self.known_sets = {}
        self.quarters = None
        limit = context_length(self.model.config)
        rows = [
            Pair(i["question"], i["choices"][i["answer"]], unframed(i["question"]))
            for i in self.items["forget"]
        ]
        self.answers = encode(self.tokenizer, rows, limit, "forget questions", self.job.reading)
        self.read_texts()
        before = self.measure()
        self.prepare_checks(before)
        return self.with_attack(before.accuracy, self.model)

    def one_pass(self, method):
        """Optimizer steps of a pass over the forget texts with the method's defaults."""
        self.job = self.make_job(method, {})
        self.read_texts()
        settings = self.job.settings
        per_step = settings.get("batch_size", 4) * settings.get("grad_accum", 1)
        return max(1, len(self.sets["forget"][0]) // per_step)

    def level_of(self, folder):
        """Accuracies of another model, the filtered one, on the same questions."""
        model = self.load_model(folder)
        return self.with_attack(self.accuracies(model, self.items), model)

    def with_attack(self, accuracy, model):
        """The accuracies, and where there is an attack that under it."""
        if self.attack is None:
            return accuracy
        return {**accuracy, ATTACKED: self.attack(model, self.tokenizer)}

    def copy_weights(self):
        state = self.model.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def restore(self):
        """The model as it was loaded: weights, and what trains."""
        self.model.load_state_dict(self.weights)
        for p in self.model.parameters():
            p.requires_grad_()
            p.grad = None
        self.model.eval()

    def read_texts(self):
        """As `Training.read_texts`, each length of texts once, without what is held out."""
        texts = self.job.rule.texts
        key = self.job.settings.get("max_length"), texts and texts.name
        if key in self.known_sets:
            self.sets = self.known_sets[key]
        else:
            super().read_texts()
            self.sets = {name: (train, []) for name, (train, _) in self.sets.items()}
            self.known_sets[key] = self.sets

    def measure(self):
        """Accuracies, and the NLL a token of the forget questions with their right answers."""
        rights = mcq.right_answers(self.model, self.tokenizer, None, self.items, self.job.reading)
        accuracy = {split: sum(right) / len(right) for split, right in rights.items()}
        nll = {"forget": mean_nll(self.model, self.answers, self.tokenizer.pad_token_id)}
        return Measured(accuracy, nll, rights["forget"])

    def measures(self, *, attacked=False):
        """The TrialMeasures of the model as it stands."""
        now = self.measure()
        signs, numbers = self.collapse.check(self.model, now.nll["forget"])
        accuracy = self.with_attack(now.accuracy, self.model) if attacked else now.accuracy
        return TrialMeasures(accuracy, numbers["neutral_kl"], now.nll["forget"], signs)

    def hooks(self):
        return [self.quarters]

    def trial(self, method, values, report):
        """The objective of a search.Searcher: train from the start, measure."""
        self.restore()
        self.quarters = Quarters(self, report)
        try:
            self.job = self.make_job(method, values)
            self.job.wrappers.check(method, self.job.rule)
            self.read_texts()
            self.start_streams()
            # what makes its weights after the training has none on its way
            if type(self.job.rule).fit is Method.fit:
                self.quarters.plan(self.settings.steps)
            _, wrapped = self.train({})
        except UserError as error:
            if self.job.wrappers.lora_rank:
                self.load()  # adapters are left in it
            raise (Broken if self.quarters.started else Refused)(str(error)) from None
        self.tidy(wrapped)
        if self.quarters.pruned:
            raise Pruned
        return self.measures(attacked=True)

    def tidy(self, wrapped):
        """Merge adapters and end what the training switched on."""
        if wrapped:
            wrapped.merge_and_unload()
        if self.settings.checkpointing:
            self.model.gradient_checkpointing_disable()
            self.model.disable_input_require_grads()
        self.model.eval()
