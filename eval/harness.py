"""What does a model still know, by lm-evaluation-harness: on our questions and on any of its tasks?

    uv run eval/harness.py --model outputs/models/mini-base --outdir outputs/mini-base/harness
    # data from the hub
    uv run eval/harness.py --model M --outdir DIR --tasks wmdp_bio_robust=forget,mmlu=general
    # behind an output filter
    uv run eval/harness.py --model M --outdir DIR --tasks mini_forget,mini_cloze --wrapper regex

Tasks of ours: mini_* and wmdp_bio_robust_rewritten (eval/tasks/*.yaml) read files of --data; those
of eval/tasks/hub/ read the hub, its cache, or a folder of the data set's name in the working
folder. `task=split` says which split a named task stands for; the report shows the first task of
each split. accuracy.csv has a row a task (or group) and metric with a 95 % interval, over entities
where the items name them, else over questions (`mean_of` in brittle/maths/intervals.py).

A model that always answers "A" is not "at chance": `constant_letter` says so (see
brittle/metrics/letters.py for the columns behind it). samples.csv has a row an item. `--limit`
draws items of each task by `--seed`.

A chat model is asked through its template, on every task (`--raw` leaves it out).
"""

from pathlib import Path
from typing import Annotated

import typer

from brittle.base import command, options
from brittle.base.errors import UserError
from brittle.base.knobs import listed
from brittle.data.examples import DEFAULT, Reading

LETTERS = ["letter_share", "constant_letter", "letter", "letter_entropy", "letter_accuracy", "ties"]
COLUMNS = ["task", "split", "metric", "value", "stderr", "ci_low", "ci_high", "n", *LETTERS]
SAMPLE_COLUMNS = ["task", "item", "fact", "half", "prediction", "answer", "correct"]
TASKS = Path(__file__).parent / "tasks"
OURS = "mini_forget,mini_retain,mini_general"


def interval(values, groups=None):
    """(low, high), 95 %, of the mean of per-item values; (None, None) where there is none.

    It is over `groups` (entities); without, each item is one of its own.
    """
    from brittle.maths.intervals import mean_of

    return mean_of(values, groups)[1:] if values else (None, None)


def parse_tasks(text):
    """{task: split or None} from `task,task=split,...`."""
    named = [task.partition("=") for task in listed(text)]
    if not named:
        raise UserError(f"--tasks is empty. Name lm-eval tasks, such as {OURS}.")
    return {name.strip(): split.strip() or None for name, _, split in named}


def with_questions(names, data):
    """Those of our default tasks whose questions the data folder has; the others are left out.

    All stay where it has none: then the first is named as missing.
    """
    there = {
        name: split
        for name, split in names.items()
        if (Path(data) / f"{name.replace('mini_', 'mcq_')}.jsonl").is_file()
    }
    if there and len(there) < len(names):
        left_out = ", ".join(name for name in names if name not in there)
        print(f"note: {data} has no questions for {left_out}, which are left out.")
    return there or names


def shown_name(name, data):
    """What a task of ours is called in tables: `mini_` stands before the mini world's alone."""
    is_mini = (Path(data) / "world.json").is_file()
    return name if is_mini else name.removeprefix("mini_")


def task_manager(names):
    """lm-eval's index of our tasks and of those ours refer to.

    All its tasks (which takes seconds) are in it only where one of them is named.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    ours = {path.stem for path in TASKS.rglob("*.yaml")}
    truthful = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    return TaskManager(
        include_path=[str(truthful), str(TASKS)], include_defaults=not names.keys() <= ours
    )


def load_tasks(names, data, cache, manager):
    """(lm-eval Task or Group objects, {task: split}, files read). Our YAMLs read from folder
    `data`.

    `cache` is a folder for this run alone: the datasets library knows a local file by its path and
    time stamp, and would serve what stood there before.
    """
    import copy
    import difflib

    from brittle.data.items import read_items
    from brittle.data.texts import write_jsonl

    loaded, splits, files = [], dict(names), []
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            close = difflib.get_close_matches(name, manager.all_tasks, 3) or [OURS]
            raise UserError(
                f"--tasks {name}: lm-eval has no such task. Close to it: {', '.join(close)}."
            )
        if entry.yaml_path and entry.yaml_path.resolve().parent == TASKS.resolve():
            config = copy.deepcopy(entry.cfg)
            local = {
                k: Path(data) / Path(v).name
                for k, v in config["dataset_kwargs"]["data_files"].items()
            }
            # lm-eval reads what our own scores read: checked, and without blanks at the joints
            copies = {k: Path(cache) / f"{k}-{file.name}" for k, file in local.items()}
            for k, file in local.items():
                write_jsonl(copies[k], read_items(file))
            config["dataset_kwargs"] = {
                "data_files": {k: str(path) for k, path in copies.items()},
                "cache_dir": str(cache),
            }
            shown = shown_name(name, data)
            config["task"] = shown
            loaded += list(manager.load([config])["tasks"].values())
            splits[shown] = splits.pop(name) or config["metadata"].get("split")
            files += [entry.yaml_path, *local.values()]
        else:
            loaded.append(_hub_task(name, manager))
    return loaded, splits, files


def _hub_task(name, manager):
    try:
        loaded = manager.load([name])
    except Exception as error:  # each task's loader and the hub fail in ways of their own
        why = " ".join(str(error).split())[:160]
        raise UserError(
            f"--tasks {name}: its data set is not in the cache and cannot be fetched "
            f"({type(error).__name__}: {why}). "
            f"Try again with hub access, or use {OURS}."
        ) from None
    return loaded["groups"].get(name) or loaded["tasks"][name]


def draw_items(tasks, manager, limit, seed):
    """{task: numbers of `limit` items, drawn by `seed`}; None, for all of them, without a limit."""
    from brittle.data.items import subset

    if limit is None:
        return None
    leaves = manager.load(tasks)["tasks"]
    return {
        name: list(subset(range(len(task.eval_docs)), limit, seed)) for name, task in leaves.items()
    }


def evaluate(model, tokenizer, tasks, manager, chosen=None, batch_size=64, seed=0, reading=DEFAULT):
    """lm-eval's results (`results`, `samples`, `n-samples`) of a loaded model.

    Log-probabilities are taken in float32. chosen: {task: numbers of its items}, None for all.
    reading: whether a chat model is asked through its template.
    """
    import logging

    import lm_eval

    from brittle.base import bars
    from brittle.data.asking import opens_trace

    chats = reading.templated(tokenizer)
    bars.everywhere()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = _language_model()(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=str(model.device),
        softmax_dtype="float32",
        think_end_token="</think>" if chats and opens_trace(tokenizer, reading) else None,
    )
    lm.reading = reading
    return lm_eval.simple_evaluate(
        lm,
        tasks=tasks,
        task_manager=manager,
        samples=chosen,
        apply_chat_template=chats,
        system_instruction=(reading.system or None) if chats else None,
        bootstrap_iters=1000,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )


def _language_model():
    from lm_eval.models.huggingface import HFLM

    from brittle.data.asking import opened
    from brittle.data.rows import unframed
    from brittle.data.templates import token_ids
    from brittle.data.tokens import common_prefix

    class Asked(HFLM):
        """A chat model is asked as `brittle.metrics.mcq` asks it, and a refused answer has
        probability 0.

        lm-eval's forward pass does not read the last token, so the guard is asked for texts here.
        """

        reading = DEFAULT

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            messages = [
                {**turn, "content": unframed(turn["content"])} if turn["role"] == "user" else turn
                for turn in chat_history
            ]
            if not add_generation_prompt:  # the last message is the answer's beginning
                return super().apply_chat_template(messages, add_generation_prompt=False)
            question = opened(self.tokenizer, messages, self.reading)
            return question.prompt + question.lead

        def _encode_pair(self, context, continuation):
            """A chat template's end stays with the context: lm-eval would score its line feeds."""
            if not self.reading.templated(self.tokenizer):
                return super()._encode_pair(context, continuation)
            whole, before = token_ids(self.tokenizer, [context + continuation, context])
            start = min(common_prefix(whole, before), len(whole) - 1)
            return whole[:start], whole[start:]

        def loglikelihood(self, requests, **more):
            from brittle.models.guarded import FLOOR, bare

            guard = getattr(self.model, "guard", None)
            if guard is None or guard.in_context:
                return super().loglikelihood(requests, **more)
            with bare(self.model):
                answers = super().loglikelihood(requests, **more)
            refused = [guard.refuses(*request.args) for request in requests]
            return [
                (FLOOR, False) if no else pair for no, pair in zip(refused, answers, strict=True)
            ]

    return Asked


def sample_rows(results):
    """A row an item, of the tasks with a notion of correct; items in the order of the file."""
    from brittle.data.items import item_fact
    from brittle.metrics.letters import prediction

    for task, samples in results["samples"].items():
        for s in sorted(samples, key=lambda s: s["doc_id"]):
            doc, correct = s["doc"], s.get("acc", s.get("acc_norm", s.get("exact_match")))
            if correct in (0, 1):
                correct = int(correct)
            yield {
                "task": task,
                "item": s["doc_id"],
                "fact": item_fact(doc, s["doc_id"]),
                "half": doc.get("half"),
                "prediction": prediction(s),
                "answer": s["target"] if isinstance(s["target"], int) else None,
                "correct": correct,
            }


def leaves(task, results):
    """The samples of a task, or of all tasks of a group."""
    below = results.get("group_subtasks", {}).get(task, [])
    return (
        [s for child in below for s in leaves(child, results)]
        if below
        else results["samples"].get(task, [])
    )


def rows(results, splits):
    """A row a task (or group of tasks) and metric."""
    from brittle.data.items import groups_of
    from brittle.metrics.letters import CONSTANT, letters

    for task, scores in results["results"].items():
        samples = leaves(task, results)
        for key, value in scores.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            stderr = scores.get(f"{metric}_stderr,{name}")
            scored = [s for s in samples if isinstance(s.get(metric), (int, float))]
            values = [float(s[metric]) for s in scored]
            entities = groups_of(s.get("doc", {}) for s in scored)
            # what is no mean of items (a perplexity) has lm-eval's standard error alone
            low, high = (
                interval(values, entities)
                if values and abs(sum(values) / len(values) - value) < 1e-6
                else (None, None)
            )
            row = {
                "task": task,
                "split": splits.get(task),
                "metric": metric if name == "none" else key,
                "value": value,
                "stderr": stderr if isinstance(stderr, float) else None,
                "ci_low": low,
                "ci_high": high,
                "n": len(samples) or None,
                **dict.fromkeys(LETTERS),
            }
            if metric == "acc":  # the letters are those that acc counts
                row |= letters(samples)
            elif (
                metric == "acc_norm"
                and (tied := letters(samples)).get("constant_letter")
                and tied["ties"] > CONSTANT
            ):
                row |= {
                    "ties": tied["ties"],
                    "constant_letter": 1,
                }  # equal choices, told apart by their lengths alone
            yield row


@options.spread
def main(
    model: options.Model,
    outdir: options.Outdir,
    tasks: Annotated[
        str, typer.Option("--tasks", help="lm-eval tasks with commas; task=split for the report.")
    ] = OURS,
    data: options.Data = Path("data/mini"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items of each task at most, drawn by --seed (all).")
    ] = None,
    reading: Reading = DEFAULT,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    wrapper: options.Wrapper = None,
    wrapper_rules: options.WrapperRules = None,
):
    """Accuracy of one model on our tasks or on named lm-eval tasks."""
    import tempfile

    from brittle.models.evaluation import Subject, evaluation
    from brittle.models.find import model_folder

    names = parse_tasks(tasks)
    if tasks == OURS:
        names = with_questions(names, data)
    # a wrong model is said before lm-eval's index is read, which takes seconds
    folder = model_folder(model, revision, code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="brittle-") as cache:
        import datasets

        datasets.disable_progress_bars()
        manager = task_manager(names)
        loaded, splits, files = load_tasks(names, data, cache, manager)
        settings = {"tasks": tasks, "limit": limit, "batch_size": batch_size, "dtype": dtype}
        subject = Subject(
            str(folder),
            data,
            device=device,
            dtype=dtype,
            seed=seed,
            trust_remote_code=trust_remote_code,
            wrapper=wrapper,
            wrapper_rules=wrapper_rules,
            reading=reading,
        )
        with evaluation(outdir, subject, files, settings) as opened:
            run, (loaded_model, tokenizer) = opened.run, opened.load()
            chosen = draw_items(loaded, manager, limit, seed)
            results = evaluate(
                loaded_model, tokenizer, loaded, manager, chosen, batch_size, seed, reading
            )
            table = list(rows(results, splits))
            run.csv("samples.csv", SAMPLE_COLUMNS, sample_rows(results))
            run.csv("accuracy.csv", COLUMNS, table)
    for row in table:
        why = "choices exactly alike" if (row["ties"] or 0) > 0.5 else "always the same choice"
        letter = f"   {why}: no accuracy" if row["constant_letter"] else ""
        print(f"{row['task']:<16} {row['metric']:<9} {row['value']:.3f}{letter}")


if __name__ == "__main__":
    command.run(main)
