"""What a data folder can serve, and what it cannot because a file is missing.

`create_datasets.py` says it, and the pipeline leaves out what cannot be measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from brittle.data.items import entity_of, read_items
from brittle.data.subjects import with_halves
from brittle.data.texts import read_jsonl

FEWEST = 5  # questions of half B, without which nothing can be told
FEW_ENTITIES = 5


class Ability(NamedTuple):
    """Something that a folder may serve.

    lacking: of a folder, what it lacks for that, in words; empty where it lacks nothing.
    """

    name: str
    what: str
    lacking: Callable


def _files(*names):
    def lacking(folder):
        absent = [name for name in names if not (folder / name).is_file()]
        return " and ".join([f"no {name}" for name in absent])

    return lacking


def _halves(folder):
    """Both halves of the forget questions, half B with enough of them."""
    absent = _files("mcq_forget.jsonl")(folder)
    if absent:
        return absent
    halves = [item.get("half") for item in with_halves(read_items(folder / "mcq_forget.jsonl"))]
    if not halves.count("A"):
        return "no question of half A in mcq_forget.jsonl"
    if halves.count("B") < FEWEST:
        count = halves.count("B")
        return f"{count} questions of half B in mcq_forget.jsonl, fewer than {FEWEST}"
    return ""


def _truth(folder):
    absent = _files("qa_forget.jsonl")(folder)
    if absent:
        return absent
    row = read_jsonl(folder / "qa_forget.jsonl")[0]
    return "" if row.get("perturbed_answer") else "no perturbed_answer in qa_forget.jsonl"


def _facts(folder):
    if (folder / "world.json").is_file() or (folder / "facts.jsonl").is_file():
        return ""
    return "no facts.jsonl"


ABILITIES = (
    Ability(
        "texts", "unlearning and diagnostics of the weights", _files("forget.txt", "retain.txt")
    ),
    Ability("accuracies", "accuracies (harness)", _files("mcq_forget.jsonl")),
    Ability(
        "layers",
        "what each layer knows (lenses, probes)",
        _files("mcq_forget.jsonl", "mcq_retain.jsonl"),
    ),
    Ability("attacks", "attacks, recovery and the verdict (removed or hidden)", _halves),
    Ability("general", "accuracy on general questions", _files("mcq_general.jsonl")),
    Ability(
        "answers",
        "probability, ROUGE and memorisation of answers",
        _files("qa_forget.jsonl", "qa_retain.jsonl"),
    ),
    Ability("forget quality", "truth ratio and forget quality", _truth),
    Ability("membership", "membership, the filter's target", _files("holdout.txt")),
    Ability("neutral", "neutral text (collapse check, verdict)", _files("neutral.txt")),
    Ability("leakage", "leakage of private data", _files("private.jsonl")),
    Ability("deduction", "deduction and neighbours", _facts),
)


def lacking(folder):
    """{name of an ability: what the folder lacks for it, empty where it lacks nothing}."""
    return {ability.name: ability.lacking(Path(folder)) for ability in ABILITIES}


def describe(folder):
    """Lines: what the data folder can serve, what not and why, and whether entities are few."""
    folder = Path(folder)
    lacks = lacking(folder)
    can = [ability.what for ability in ABILITIES if not lacks[ability.name]]
    cannot = [
        f"{ability.what} ({lacks[ability.name]})" for ability in ABILITIES if lacks[ability.name]
    ]
    lines = [f"{folder} serves: {'; '.join(can)}."]
    if cannot:
        lines.append(f"It cannot serve: {'; '.join(cannot)}. See docs/data.md.")
    if not lacks["attacks"]:
        items = read_items(folder / "mcq_forget.jsonl")
        entities = len({entity_of(item) for item in items})
        if entities < FEW_ENTITIES:
            lines.append(
                f"note: the forget questions are about {entities} entities. Intervals count "
                "entities, so they will be wide. A column entity or --rows-per-entity says which "
                "questions belong together."
            )
    return lines
