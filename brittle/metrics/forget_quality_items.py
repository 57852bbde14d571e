"""Metrics of one answer: each is one function, and one row of METRICS.

A new metric is a function of an `Answered` question and a row of METRICS. From that row follow the
columns of forget_quality_items.csv, the means in forget_quality.csv, the bars of the figure, and
what the script prints.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from brittle.metrics import answers, generated_text
from brittle.metrics.forget_quality import SETS
from brittle.metrics.tofu import option_probability, truth_score


class Answered:
    """One question: its raw record (of `forget_quality.measure`), and the `Definitions` to use."""

    def __init__(self, record, name, definition):
        self.record, self.definition = record, definition
        self.answer, self.wrong = record["answer"], record["wrong"]
        self.side = "forget" if name == "forget" else "utility"
        self.generation = record["generation"]
        if SETS[name][1] == "knowmem":
            self.generation = generated_text.cut(self.generation)

    @functools.cached_property
    def rouge(self):
        """ROUGE of the generation against the true answer."""
        return generated_text.rouge(self.generation, self.record["gold"], stem=self.definition.stem)

    @functools.cached_property
    def ratios(self):
        """{arith, geom, prob}: the truth ratios; empty where the data have no wrong answers."""
        if not self.wrong:
            return {}
        correct = self.record["paraphrase"] or self.answer
        return answers.truth_ratios(correct, self.wrong, eos=self.definition.eos)

    @property
    def truth_ratio(self):
        """The truth ratio by the mean that the definition takes for this set, or None."""
        return self.ratios.get(getattr(self.definition, self.side))


def count_tokens(answered):
    return len(answered.answer.tokens(answered.definition.eos))


def answer_nll(answered):
    return answers.nll(answered.answer, eos=answered.definition.eos)


def answer_probability(answered):
    return answers.probability(answered.answer, eos=answered.definition.eos)


def probability_among_options(answered):
    eos = answered.definition.eos
    wrong = [answers.probability(option, eos=eos) for option in answered.wrong]
    return option_probability(answer_probability(answered), wrong) if wrong else None


def rouge_l_recall(answered):
    return answered.rouge.rouge_l.recall


def rouge_l_f1(answered):
    return answered.rouge.rouge_l.f1


def rouge_1_recall(answered):
    return answered.rouge.rouge_1.recall


def exact_memorisation(answered):
    definition = answered.definition
    return answers.exact_memorisation(
        answered.answer, eos=definition.eos, drop_last=definition.drop_last
    )


def extraction_strength(answered):
    definition = answered.definition
    return answers.extraction_strength(
        answered.answer,
        eos=definition.eos,
        drop_last=definition.drop_last,
        floor=definition.floor,
    )


def truth_ratio_arith(answered):
    return answered.ratios.get("arith")


def truth_ratio_geom(answered):
    return answered.ratios.get("geom")


def truth_ratio_prob(answered):
    return answered.ratios.get("prob")


def truth_ratio(answered):
    return answered.truth_ratio


def truth_ratio_score(answered):
    ratio = answered.truth_ratio
    return None if ratio is None else truth_score(ratio, answered.side)


def token_entropy(answered):
    return generated_text.token_entropy(answered.generation)


def repetition(answered):
    return generated_text.repetition(answered.generation)


def degenerate(answered):
    return int(generated_text.degenerate(answered.generation))


def trace_rouge(answered):
    """ROUGE-L recall of the true answer in a reasoning model's trace; None where there is none."""
    trace = answered.record.get("trace")
    if not trace:
        return None
    gold, stem = answered.record["gold"], answered.definition.stem
    return generated_text.rouge(trace, gold, stem=stem).rouge_l.recall


class Metric(NamedTuple):
    """A column of forget_quality_items.csv.

    value: a function of an `Answered`; None where the metric cannot be computed.
    averaged: its mean over each set is a row of forget_quality.csv.
    says_skipped: where no item of a set has a value, a row says so; others have no row there.
    label: its name below the bars of the figure; None: it is not drawn.
    printed: the script prints its means.
    """

    value: Callable
    averaged: bool = True
    says_skipped: bool = False
    label: str | None = None
    printed: bool = False


METRICS = {
    "tokens": Metric(count_tokens, averaged=False),
    "nll": Metric(answer_nll, averaged=False),
    "probability": Metric(answer_probability, label="P(answer)", printed=True),
    "option_probability": Metric(probability_among_options, says_skipped=True),
    "rouge_l_recall": Metric(rouge_l_recall, label="ROUGE-L", printed=True),
    "rouge_l_f1": Metric(rouge_l_f1),
    "rouge_1_recall": Metric(rouge_1_recall),
    "exact_memorisation": Metric(exact_memorisation, label="exact\nmemor."),
    "extraction_strength": Metric(extraction_strength, label="extraction\nstrength", printed=True),
    "truth_ratio_arith": Metric(truth_ratio_arith),
    "truth_ratio_geom": Metric(truth_ratio_geom),
    "truth_ratio_prob": Metric(truth_ratio_prob),
    "truth_ratio": Metric(truth_ratio, says_skipped=True),
    "truth_score": Metric(truth_ratio_score, says_skipped=True, label="truth\nscore", printed=True),
    "token_entropy": Metric(token_entropy),
    "repetition": Metric(repetition),
    "degenerate": Metric(degenerate, label="degen-\nerate"),
    "trace_rouge": Metric(trace_rouge, printed=True),
}
MEANS = tuple(name for name, metric in METRICS.items() if metric.averaged)
DRAWN = {name: metric.label for name, metric in METRICS.items() if metric.label}
PRINTED = tuple(name for name, metric in METRICS.items() if metric.printed)
ABOUT = ("set", "index", "entity", "fact", "definition")
TEXTS = ("trace", "generation", "gold")
COLUMNS = (*ABOUT, *METRICS, *TEXTS)


def items(name, records, definition):
    """Yield {COLUMNS: value}, one for each record of the set `name`, by `Definitions`."""
    for record in records[: definition.rows]:
        answered = Answered(record, name, definition)
        yield {
            "set": name,
            "index": record["index"],
            "entity": record["entity"],
            "fact": record["fact"],
            "definition": definition.name,
            **{metric: row.value(answered) for metric, row in METRICS.items()},
            "trace": record.get("trace", ""),
            "generation": answered.generation,
            "gold": record["gold"],
        }
