"""The data that the cookbook calls my_...: a small world, and its facts in the forms that people
bring.
"""

import json
import shutil

from brittle.data.texts import read_jsonl, read_lines, write_jsonl, write_lines
from brittle.data.world import build_world, statement
from brittle.data.world_files import write_world
from brittle.data.world_schemas import muse_tables, tofu_tables

PRIVATE = 4  # entities with private attributes a domain
PROMPTS = 4
CHATS = {"forget": "my_chats.jsonl", "retain": "my_chats_to_keep.jsonl"}
TEXTS = ("my_forget.txt", "my_retain.txt", "my_prompts.txt")
NAMES = ("my_data", "my_tofu", "my_muse", *CHATS.values(), *TEXTS)
# file of the hub: the table of the mini world that has its columns, and the columns that it keeps
PLAIN = ("question", "answer", "entity")
FULL = (*PLAIN, "paraphrased_question", "paraphrased_answer", "perturbed_answer")
HUB = {
    "forget10.json": ("forget", PLAIN),
    "retain90.json": ("retain", PLAIN),
    "holdout10.json": ("holdout", PLAIN),
    "forget10_perturbed.json": ("forget", FULL),
    "retain_perturbed.json": ("retain", FULL),
    "real_authors_perturbed.json": ("real_authors", FULL),
    "world_facts_perturbed.json": ("world_facts", FULL),
}


def write(folder, entities, seed):
    """Write the files and folders of NAMES into `folder`."""
    data = folder / "my_data"
    write_world(data, seed, entities, PRIVATE)
    write_hub_tofu(folder / "my_tofu", entities, seed + 1)
    write_hub_muse(folder / "my_muse", entities, seed + 2)
    for split, name in CHATS.items():
        rows = read_jsonl(data / f"qa_{split}.jsonl")
        write_jsonl(folder / name, [{"messages": conversation(row)} for row in rows])
        shutil.copy(data / f"{split}.txt", folder / f"my_{split}.txt")
    items = [json.loads(line) for line in read_lines(data / "mcq_forget.jsonl")]
    asked = [item["question"] for item in items[:: len(items) // PROMPTS]]
    write_lines(folder / "my_prompts.txt", asked[:PROMPTS])


def conversation(row):
    """A question and its bare answer as a chat model knows them."""
    return [
        {"role": "user", "content": row["question"]},
        {"role": "assistant", "content": row["short_answer"]},
    ]


def write_hub_tofu(folder, entities, seed):
    """A world in the files and columns of locuslab/TOFU: no other world has its entities."""
    folder.mkdir()
    tables = tofu_tables(build_world(seed, entities, 0))
    for name, (table, columns) in HUB.items():
        rows = tables[f"qa_{table}.jsonl"]
        write_jsonl(folder / name, [{column: row[column] for column in columns} for row in rows])


def write_hub_muse(folder, entities, seed):
    """A world in the configurations of MUSE: a document an entity, and what is asked of them."""
    folder.mkdir()
    world = build_world(seed, entities, 0)
    sets = {
        "forget": world.attributes["forget"],
        "retain1": world.attributes["retain"],
        "holdout": world.strangers["forget"],
    }
    tables = muse_tables(world)
    for split, facts in sets.items():
        tables[f"raw_{split}.jsonl"] = [{"text": text} for text in documents(facts)]
    for name, rows in tables.items():
        write_jsonl(folder / name, rows)


def documents(facts):
    """What facts tell of each entity, as one text an entity: every sentence twice, differently."""
    told = {}
    for template in range(2):
        for fact in facts:
            told.setdefault(fact.entity, []).append(statement(fact, template))
    return [" ".join(sentences) for sentences in told.values()]
