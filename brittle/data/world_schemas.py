"""The mini world in the schemas of TOFU and MUSE, so that metrics written for either run offline.

TOFU: qa_{forget,retain,holdout,real_authors,world_facts}.jsonl. Answers are sentences with a
paraphrase and five perturbed answers, as in TOFU's forgetXX_perturbed; `short_answer` and
`short_perturbed_answer` are the bare values, as in its world_facts_perturbed, and what a mini
model, which reads "Question: ... Answer: value", was trained to say. The trades take the part of
the facts that unlearning must spare: half A that of real authors, half B that of world facts.

MUSE: verbmem_forget, knowmem_{forget,retain}_qa, their _icl examples (relations, which no question
of the others asks about) and privleak_{forget,retain,holdout}.jsonl, called config_split as on the
hub.
"""

from brittle.data.world import HELD_OUT, Draws, question, statement

VERBATIM = 2  # the statement template that is cut before its value
ICL = 10  # in-context examples a split, as MUSE has


def question_answers(world, name, facts):
    """Facts in TOFU's schema: full-sentence answers, a paraphrase, five perturbed answers."""
    draws = Draws(f"qa {world.seed} {name}")
    for fact in facts:
        wrong = draws.sample([v for v in fact.pool if v != fact.value], 5)
        yield {
            "question": f"What is the {fact.noun} of {fact.entity}?",
            "answer": statement(fact, 0),
            "paraphrased_question": f"Which {fact.noun} does {fact.entity} have?",
            "paraphrased_answer": statement(fact, HELD_OUT[0]),
            "perturbed_answer": [statement(fact._replace(value=v), 0) for v in wrong],
            "short_answer": fact.value,
            "short_perturbed_answer": wrong,
            "entity": fact.entity,
            "fact": fact.id,
            "half": fact.half,
        }


def tofu_tables(world):
    """{file: rows} of TOFU's schema."""
    spared = world.attributes["general"]
    parts = {
        "forget": world.attributes["forget"],
        "retain": world.attributes["retain"],
        "holdout": world.strangers["forget"],
        "real_authors": [f for f in spared if f.half == "A"],
        "world_facts": [f for f in spared if f.half == "B"],
    }
    return {
        f"qa_{name}.jsonl": list(question_answers(world, name, facts))
        for name, facts in parts.items()
    }


def asked(fact):
    """The fact's question and answer without the words around them, which belong to a metric's
    template.
    """
    return {
        "question": question(fact, 0).removeprefix("Question: ").removesuffix(" Answer:"),
        "answer": fact.value,
        "entity": fact.entity,
        "fact": fact.id,
        "half": fact.half,
    }


def verbatim(fact):
    """A training sentence cut before its value: the prompt, and the ground truth `gt` that a
    memoriser goes on with.
    """
    prompt, value, rest = statement(fact, VERBATIM).rpartition(fact.value)
    return {
        "prompt": prompt.rstrip(),
        "gt": value + rest,
        "entity": fact.entity,
        "fact": fact.id,
        "half": fact.half,
    }


def muse_tables(world):
    """{file: rows} of MUSE's schema."""
    domains = ("forget", "retain")
    tables = {"verbmem_forget.jsonl": [verbatim(f) for f in world.attributes["forget"]]}
    for domain in domains:
        tables[f"knowmem_{domain}_qa.jsonl"] = [asked(f) for f in world.attributes[domain]]
        tables[f"knowmem_{domain}_qa_icl.jsonl"] = [
            asked(f) for f in world.relations[domain][-ICL:]
        ]
    members = {
        "forget": world.attributes["forget"],
        "retain": world.attributes["retain"],
        "holdout": world.strangers["forget"],
    }
    for name, facts in members.items():
        tables[f"privleak_{name}.jsonl"] = [
            {"text": statement(f, 0), "entity": f.entity} for f in facts
        ]
    return tables
