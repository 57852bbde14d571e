"""What does a model still know, measured by lm-evaluation-harness on our own questions and on any task it names?

    uv run eval/harness.py --model outputs/models/mini-base --outdir outputs/mini-base/harness
    uv run eval/harness.py --model M --outdir DIR --tasks wmdp_bio=forget,mmlu=general        tasks from the hub

Our tasks (eval/tasks/*.yaml) read the mcq_*.jsonl files of --data. `task=split` says which split a named task stands for;
the report shows the first task of each split. accuracy.csv has a row a task and metric, with the 95 % Wilson interval;
`constant_letter` marks a model that gives nearly always the same choice, whose accuracy says nothing. samples.csv has a
row an item. `--limit` takes the first items of each task.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import typer

from brittle import cli
from brittle.errors import UserError

COLUMNS = ["task", "split", "metric", "value", "stderr", "ci_low", "ci_high", "n", "letter_share", "constant_letter"]
SAMPLE_COLUMNS = ["task", "item", "fact", "half", "prediction", "answer", "correct"]
TASKS = Path(__file__).parent / "tasks"
OURS = "mini_forget,mini_retain,mini_general"
CONSTANT = 0.9  # a share of one choice above this is called constant
SHARES = ("acc", "acc_norm", "exact_match")  # metrics that are means of 0 and 1, so the binomial interval holds


def wilson(right, n, z=1.959963984540054):
    """95 % interval of a share, `right` of `n` (Wilson 1927): inside [0, 1] and never empty, unlike value ± 1.96 stderr."""
    p, zz = right / n, z * z
    centre, half = p + zz / (2 * n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, (centre - half) / (1 + zz / n)), min(1.0, (centre + half) / (1 + zz / n))


def parse_tasks(text):
    """{task: split or None} from `task,task=split,...`."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError(f"--tasks is empty. Name lm-eval tasks, such as {OURS}.")
    return {name.strip(): split.strip() or None for name, _, split in parts}


def load_tasks(names, data, cache, manager):
    """(lm-eval Task or Group objects, {task: split}, files read). Our YAMLs read their files from the folder `data`.

    `cache` is a folder for this run alone: the datasets library knows a local file by its path and time stamp, and would
    serve what stood there before.
    """
    import copy
    import difflib

    from brittle import mcq

    loaded, splits, files = [], dict(names), []
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            close = difflib.get_close_matches(name, manager.all_tasks, 3) or [OURS]
            raise UserError(f"--tasks {name}: lm-eval has no such task. Close to it: {', '.join(close)}.")
        if entry.yaml_path and entry.yaml_path.resolve().parent == TASKS.resolve():
            config = copy.deepcopy(entry.cfg)
            local = {k: Path(data) / Path(v).name for k, v in config["dataset_kwargs"]["data_files"].items()}
            for file in local.values():
                mcq.read_items(file)  # says in one line what is wrong with a file
            config["dataset_kwargs"] = {"data_files": {k: str(v) for k, v in local.items()}, "cache_dir": str(cache)}
            loaded += list(manager.load([config])["tasks"].values())
            splits[name] = splits[name] or config["metadata"].get("split")
            files += [entry.yaml_path, *local.values()]
        else:
            loaded.append(_hub_task(name, manager))
    return loaded, splits, files


def _hub_task(name, manager):
    try:
        found = manager.load([name])
    except Exception as error:  # each task's loader and the hub fail in ways of their own
        why = " ".join(str(error).split())[:160]
        raise UserError(
            f"--tasks {name}: its data set is not in the cache and cannot be fetched ({type(error).__name__}: {why}). "
            f"Try again with hub access, or use {OURS}."
        ) from None
    return found["groups"].get(name) or found["tasks"][name]


def evaluate(model, tokenizer, tasks, manager, limit=None, batch_size=64, seed=0):
    """lm-eval's results (`results`, `samples`, `n-samples`) of a loaded model. Log-probabilities are taken in float32."""
    import logging

    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device), softmax_dtype="float32")
    return lm_eval.simple_evaluate(
        lm, tasks=tasks, task_manager=manager, limit=limit, bootstrap_iters=1000, random_seed=seed,
        numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
    )  # fmt: skip


def prediction(sample):
    """Index of the choice with the highest log-probability, or None where the task is not multiple choice."""
    found = sample["filtered_resps"]
    if len(found) < 2 or not all(isinstance(r, (tuple, list)) and len(r) == 2 for r in found):
        return None
    values = [float(value) for value, _ in found]
    if not all(map(math.isfinite, values)):
        raise UserError("the model gives NaN or infinite log-probabilities: it is broken, and has no accuracy.")
    return max(range(len(values)), key=values.__getitem__)


def sample_rows(results):
    """A row an item, of the tasks with a notion of correct; items in the order of the file."""
    for task, samples in results["samples"].items():
        for s in sorted(samples, key=lambda s: s["doc_id"]):
            doc, correct = s["doc"], s.get("acc", s.get("exact_match"))
            yield {
                "task": task, "item": s["doc_id"], "fact": doc.get("fact"), "half": doc.get("half"),
                "prediction": prediction(s), "answer": s["target"] if isinstance(s["target"], int) else None,
                "correct": None if correct is None else int(correct),
            }  # fmt: skip


def rows(results, splits):
    """A row a task (or group of tasks) and metric."""
    for task, found in results["results"].items():
        samples = results["samples"].get(task, [])
        letters = Counter(p for p in map(prediction, samples) if p is not None)
        share = max(letters.values()) / letters.total() if letters else None
        sizes = results["n-samples"].get(task)
        for key, value in found.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            stderr, n = found.get(f"{metric}_stderr,{name}"), sizes and sizes["effective"]
            low, high = wilson(round(value * n), n) if n and metric in SHARES else (None, None)
            row = {
                "task": task, "split": splits.get(task), "metric": metric if name == "none" else key, "value": value,
                "stderr": stderr if isinstance(stderr, float) else None, "ci_low": low, "ci_high": high, "n": n,
                "letter_share": None, "constant_letter": None,
            }  # fmt: skip
            if metric == "acc" and share is not None:  # the letters are those that acc counts
                row |= {"letter_share": share, "constant_letter": int(share > CONSTANT)}
            yield row


def main(
    model: cli.Model,
    outdir: cli.Outdir,
    tasks: Annotated[str, typer.Option("--tasks", help="lm-eval tasks with commas; task=split for the report.")] = OURS,
    data: cli.Data = Path("data/mini"),
    limit: Annotated[Optional[int], typer.Option(min=1, help="The first so many items of each task.")] = None,  # noqa: UP045
    batch_size: cli.BatchSize = 64,
    device: cli.Device = "auto",
    dtype: cli.Dtype = "auto",
    seed: cli.Seed = 0,
    revision: cli.Revision = None,
    trust_remote_code: cli.TrustRemoteCode = False,
):
    """Accuracy of one model on our tasks or on named lm-eval tasks."""
    import tempfile

    from brittle import models, results

    names = parse_tasks(tasks)
    folder = models.model_folder(model, revision)
    with tempfile.TemporaryDirectory(prefix="brittle-") as cache:
        import datasets
        from lm_eval.tasks import TaskManager

        datasets.disable_progress_bars()
        ours = {path.stem for path in TASKS.glob("*.yaml")}
        manager = TaskManager(include_path=str(TASKS), include_defaults=not names.keys() <= ours)
        loaded, splits, files = load_tasks(names, data, cache, manager)
        settings = {"tasks": tasks, "limit": limit, "batch_size": batch_size, "dtype": dtype}
        with results.Run(outdir, files, {"model": str(folder)}, seed, settings) as run:
            loaded_model = models.load_model(folder, device, dtype, trust_remote_code)
            tokenizer = models.load_tokenizer(folder, trust_remote_code)
            found = evaluate(loaded_model, tokenizer, loaded, manager, limit, batch_size, seed)
            table = list(rows(found, splits))
            run.csv("samples.csv", SAMPLE_COLUMNS, sample_rows(found))
            run.csv("accuracy.csv", COLUMNS, table)
    for row in table:
        letter = f"   the same choice in {row['letter_share']:.0%} of the items" if row["constant_letter"] else ""
        print(f"{row['task']:<16} {row['metric']:<9} {row['value']:.3f}{letter}")


if __name__ == "__main__":
    cli.run(main)
