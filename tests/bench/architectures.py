"""Does every family go through every command, and is what comes out true?

    PYTHONPATH=. uv run python tests/bench/architectures.py --out docs/measured/architectures.csv
    PYTHONPATH=. uv run python tests/bench/architectures.py --families "gemma2;phi3"

Each family of tests/support/families.py becomes a folder as the hub has them: a tiny random model
with a vocabulary padded beyond the tokenizer's, and special tokens like the family's. The commands
run on it in this process. What they write is compared with plain transformers. A cell is yes or no,
and the last column says why not.
Families that cannot work are refused by every command, for the same reason.
"""

import argparse
import contextlib
import csv
import io
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from support.families import FAMILIES, NESTED, REFUSED, fit_tokenizer, make_family
from support.places import ROOT
from support.processes import run_script

BLOCKS = 3
OTHERS = [kind for kinds in REFUSED.values() for kind in kinds]
METHODS = ("npo", "rmu", "cb_lat")
PROMPT = "Question: Which town is the home of the guild?"
RATE = "1e-2"


class Failure(Exception):
    """What a command got wrong, in one line."""


def expect(holds, reason):
    if not holds:
        raise Failure(reason)


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain_blocks(model):
    """The first list of modules as long as the language model is deep."""
    lists = [m for m in model.named_modules() if isinstance(m[1], torch.nn.ModuleList)]
    return next((n, m) for n, m in lists if len(m) == BLOCKS and "vision" not in n)


class Case:
    """One family's folder and the commands on it."""

    def __init__(self, name, home, data, tokenizer):
        self.name, self.home, self.data = name, home, data
        self.base = str(home / "models" / "base")
        tokenizer = fit_tokenizer(tokenizer, name)
        settings = {"vocab_size": len(tokenizer) + 13}  # no power of two: padded
        for token in ("bos", "eos", "pad"):
            settings[f"{token}_token_id"] = getattr(tokenizer, f"{token}_token_id")
        make_family("llama" if name in OTHERS else name, **settings).save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)
        self.tokenizer = tokenizer
        if name in OTHERS:
            from transformers import AutoConfig

            AutoConfig.for_model(name).save_pretrained(self.base)
            shutil.copytree(self.base, self.unlearned("npo"))

    def run(self, script, *arguments):
        """Output of a command; a Failure where it does not end well."""
        argv = [script, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        earlier, sys.argv = sys.argv, argv
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run_script(argv)
        except Exception as error:
            raise Failure(f"traceback: {type(error).__name__}: {str(error)[:200]}") from error
        finally:
            sys.argv = earlier
        if code:
            raise Failure((out.getvalue() + err.getvalue()).strip().splitlines()[-1])
        return out.getvalue()

    def unlearned(self, method):
        return self.home / f"base__{method}" / "unlearned_model"

    @property
    def texts(self):
        return ["--forget", self.data / "forget.txt", "--retain", self.data / "retain.txt"]

    @property
    def pair(self):
        return ["--model-a", self.base, "--model-b", self.unlearned("npo")]


def visible(text):
    """`text` with control characters as their pictures, as a terminal gets it."""
    pictures = {n: 0x2400 + n for n in range(32) if chr(n) not in "\n\t"} | {127: 0x2421}
    return "".join(
        f"<U+{ord(c):04X}>" if 0x80 <= ord(c) < 0xA0 else c for c in text.translate(pictures)
    )


@torch.no_grad()
def check_infer(case):
    """The answer is that of `generate`."""
    told = case.run("infer.py", "--model", case.base, "--prompt", PROMPT, "--greedy",
                    "--max-new-tokens", 12)  # fmt: skip
    ids = case.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    pad = case.tokenizer.eos_token_id
    whole = plain(case.base).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=pad,
    )
    answer = case.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    shown = visible(answer).rstrip("\N{REPLACEMENT CHARACTER}")
    expect(shown.strip() == told.strip(), f"another answer than generate's {shown!r}: {told!r}")


def changed(case, method):
    """{name of a parameter: its change} between Base and an unlearned model, by plain loading."""
    before = dict(plain(case.base).named_parameters())
    after = dict(plain(case.unlearned(method)).named_parameters())
    expect(set(before) == set(after), "other parameters than Base has")
    expect(all(p.isfinite().all() for p in after.values()), "weights that are not finite")
    return {n: (after[n] - before[n]).detach().double() for n in before}


def check_method(case, method):
    """Losses are finite, and what the method trains is what moved."""
    blocks = {"rmu": ["--layer-id", 1], "cb_lat": ["--layer-id", 1, "--lat-layer", 0]}
    case.run("unlearn/unlearn.py", "--model", case.base, "--method", method, "--data", case.data,
             "--steps", 2, "--batch-size", 4, "--lr", RATE, "--max-samples", 16,
             *blocks.get(method, []), "--root", case.home)  # fmt: skip
    moved = {n for n, change in changed(case, method).items() if change.abs().max() > 0}
    stem, stack = plain_blocks(plain(case.base))
    inside = {f"{stem}.{n}" for n, _ in stack.named_parameters()}
    expect(moved, "nothing moved")
    if method == "npo":
        everything = {n for n, p in plain(case.base).named_parameters() if not is_tower(n)}
        left = {n for n in everything - moved if not may_rest(n)}
        expect(not left, f"not trained: {sorted(left)[:4]}")
    else:
        above = {n for n in moved if n.removeprefix(f"{stem}.").startswith(("2.", "3."))}
        own = inside if method == "rmu" else moved
        expect(moved <= own, f"moved outside of the blocks: {sorted(moved - inside)[:3]}")
        expect(not above, f"moved above block 1: {sorted(above)[:3]}")


def is_tower(name):
    return "vision" in name or "multi_modal" in name


def may_rest(name):
    """Parameters without a gradient in two steps: a router's chosen constants, keys' biases."""
    return name.endswith(("e_score_correction_bias", "k_proj.bias", "sinks"))


def check_step_1(case):
    """The sums of squares of dW, in all and a block, are those of two plain models."""
    out = case.home / "param_stats"
    case.run("experiment/collect_param_stats.py", *case.pair, "--outdir", out)
    stem, _ = plain_blocks(plain(case.base))
    wanted = dict.fromkeys(range(-1, BLOCKS), 0.0)
    for name, change in changed(case, "npo").items():
        if change.ndim in (2, 3) and min(change.shape) > 1 and not name.endswith("bias"):
            inside = name.startswith(f"{stem}.")
            block = int(name[len(stem) + 1 :].split(".")[0]) if inside else -1
            wanted[block] += float(change.square().sum())
    told = dict.fromkeys(wanted, 0.0)
    for row in rows(out / "per_matrix.csv"):
        told[int(row["layer"])] += float(row["dW_fro"]) ** 2
    for block, value in wanted.items():
        expect(abs(told[block] - value) <= 1e-4 * value + 1e-12,
               f"block {block}: |dW|^2 {told[block]:.6g}, should be {value:.6g}")  # fmt: skip
    groups = {row["group"] for row in rows(out / "per_layer.csv") if int(row["layer"]) >= 0}
    expect(groups >= {"attn", "mlp"}, f"groups {groups}")


def states(model, ids):
    """[h_0 ... h_N] of one text by output_hidden_states, the last by a hook of its own."""
    kept = []
    handle = plain_blocks(model)[1][-1].register_forward_hook(
        lambda _m, _i, out: kept.append(out if torch.is_tensor(out) else out[0])
    )
    told = model(ids, output_hidden_states=True).hidden_states
    handle.remove()
    return [*told[:BLOCKS], kept[0]]


@torch.no_grad()
def check_norms(case):
    """Means of norms of the blocks' outputs, and of their differences."""
    lines = (case.data / "forget.txt").read_text().splitlines()[:6]
    few = case.home / "few.txt"
    few.write_text("\n".join(lines) + "\n")
    out = case.home / "activation_stats"
    case.run("experiment/collect_activation_norms.py", *case.pair, "--outdir", out,
             "--forget", few, "--retain", few)  # fmt: skip
    sums, tokens = torch.zeros(BLOCKS + 1, 2, dtype=torch.float64), 0
    models = plain(case.base), plain(case.unlearned("npo"))
    for line in lines:
        ids = case.tokenizer(line, return_tensors="pt")["input_ids"]
        tokens += ids.shape[1]
        for layer, (h, other) in enumerate(zip(*(states(m, ids) for m in models), strict=True)):
            sums[layer, 0] += h.norm(dim=-1).double().sum()
            sums[layer, 1] += (other - h).norm(dim=-1).double().sum()
    for row in rows(out / "activation_stats.csv"):
        wanted = sums[int(row["layer"])] / tokens
        told = torch.tensor([float(row["model_a_norm_L2"]), float(row["mean_dh_L2"])])
        expect(torch.allclose(told.double(), wanted, rtol=1e-3),
               f"layer {row['layer']}: {told.tolist()}, should be {wanted.tolist()}")  # fmt: skip


@torch.no_grad()
def accuracy(model, tokenizer, items):
    """Share of questions whose right choice is the likeliest, one text at a time."""
    right = 0
    for item in items:
        scores = []
        start = len(tokenizer(item["question"])["input_ids"])
        for choice in item["choices"]:
            ids = tokenizer(f"{item['question']} {choice}", return_tensors="pt")["input_ids"]
            logprobs = model(ids).logits[0].double().log_softmax(-1)
            scores.append(
                sum(float(logprobs[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))
            )
        right += scores.index(max(scores)) == item["answer"]
    return right / len(items)


def items_of(case, split):
    from brittle.data.items import read_items

    return read_items(case.data / f"mcq_{split}.jsonl")


def check_lens(case, lens):
    """At the last layer the model's accuracy, at layer 2 that of a model cut off there."""
    out = case.home / f"lens_{lens}"
    case.run("experiment/layerwise_wmdp_accuracy.py", "--model", case.base, "--outdir", out,
             "--data", case.data, "--lens", lens, "--train", case.data / "retain.txt",
             "--train-steps", 2, "--train-tokens", 256)  # fmt: skip
    told = {
        int(r["layer"]): r for r in rows(out / "wmdp_lens_results.csv") if r["split"] == "forget"
    }
    items, whole, cut = items_of(case, "forget"), plain(case.base), plain(case.base)
    del plain_blocks(cut)[1][2:]
    cut.config.get_text_config().num_hidden_layers = 2
    expect(sorted(told) == list(range(BLOCKS + 1)), f"layers {sorted(told)}")
    wanted = {BLOCKS: whole} | ({2: cut} if lens == "logit" else {})
    for layer, model in wanted.items():
        own, row = accuracy(model, case.tokenizer, items), float(told[layer]["accuracy"])
        expect(abs(own - row) < 1e-6, f"layer {layer}: accuracy {row:.3f}, should be {own:.3f}")
    expect(abs(float(told[BLOCKS]["kl_to_final"])) < 1e-6, "the last layer is not the model's")


def check_tamper(case):
    """At step 0 the accuracies are the model's; behind two steps all are there."""
    out = case.home / "tamper"
    case.run("eval/tamper.py", "--model", case.base, "--outdir", out, "--data", case.data,
             "--lr", "1e-3", "--steps", 2, "--eval-at", "2", "--seeds", 1)  # fmt: skip
    table = rows(out / "tamper.csv")
    expect({int(r["step"]) for r in table} == {0, 2}, "steps are missing")
    expect(all(r["accuracy"] for r in table), "the attack broke the model")
    first = next(r for r in table if r["step"] == "0" and r["split"] == "retain")
    own = accuracy(plain(case.base), case.tokenizer, items_of(case, "retain"))
    expect(abs(float(first["accuracy"]) - own) < 1e-6,
           f"retain accuracy {first['accuracy']}, should be {own:.3f}")  # fmt: skip


def check_filter(case, mode):
    """A filter is fitted, set to .7, baked and verified; the logits are those of a hook by hand."""
    where, baked = case.home / mode / "filter", case.home / mode / "unlearned_model"
    of = ["--model", case.base, "--filter", where]
    site = ["--site", "post_norm", "--no-gate"] if mode == "post-norm" else ["--site", "block:1"]
    gate = [] if mode == "post-norm" else ["--gate"]
    few = ["--max-samples", 20]
    case.run("hooks/fit_filter.py", "--model", case.base, *case.texts, "--out", where, *site, *gate,
             *few, "--basis", "pca", "--k", 4, "--force")  # fmt: skip
    case.run("hooks/tune_strength.py", *of, *case.texts, *few, "--strength", 0.7, "--items", 4,
             "--data", case.data)  # fmt: skip
    case.run("hooks/bake_filter.py", *of, "--out", baked, "--mode", mode)
    told = case.run("hooks/verify_filter.py", *of, "--baked", baked, "--data", case.data)
    expect("equal" in told, told)
    if mode == "post-norm":
        check_by_hand(case, where, baked)


@torch.no_grad()
def check_by_hand(case, where, baked):
    """What a stock class gives of the baked folder is x - .7 U (U^T x) in front of the head."""
    from safetensors.torch import load_file

    basis = load_file(where / "filter.safetensors")["basis"]
    model, ids = plain(case.base), torch.arange(20, 60)[None]
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _m, args: (args[0] - 0.7 * (args[0] @ basis) @ basis.T,)
    )
    wanted = model(ids).logits
    handle.remove()
    away = float((wanted - model(ids).logits).abs().max())
    gap = float((plain(baked)(ids).logits - wanted).abs().max())
    expect(gap < 1e-4 * max(1, float(wanted.abs().max())) < away or gap < away / 100,
           f"logits {gap:.2g} from the filter by hand, {away:.2g} from none")  # fmt: skip


def check_harness(case):
    out = case.home / "harness"
    case.run("eval/harness.py", "--model", case.base, "--outdir", out, "--data", case.data)
    table = {r["split"]: r for r in rows(out / "accuracy.csv") if r["metric"] == "acc"}
    for split in ("forget", "retain"):
        own = accuracy(plain(case.base), case.tokenizer, items_of(case, split))
        told = float(table[split]["value"])
        expect(abs(told - own) < 1e-6, f"{split} accuracy {told:.3f}, should be {own:.3f}")


CHECKS = {
    "infer": check_infer,
    **{method: lambda case, method=method: check_method(case, method) for method in METHODS},
    "step 1": check_step_1,
    "norms": check_norms,
    "logit lens": lambda case: check_lens(case, "logit"),
    "tuned lens": lambda case: check_lens(case, "tuned"),
    "relearning": check_tamper,
    "filter folded": lambda case: check_filter(case, "post-norm"),
    "filter in a class": lambda case: check_filter(case, "class"),
    "harness": check_harness,
}


def reason(check, case):
    """Why a check does not hold; None where it does."""
    try:
        check(case)
    except Failure as failure:
        return str(failure).removeprefix("error: ").replace(case.base, case.name)
    except Exception as error:
        return f"the check: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def measure(name, checks, data, tokenizer, home):
    """A row: yes or no for every check, and the distinct reasons."""
    case = Case(name, home, data, tokenizer)
    reasons = {check: reason(CHECKS[check], case) for check in checks}
    told = list(dict.fromkeys(why for why in reasons.values() if why))
    if name in OTHERS and (len(told) > 1 or not all(reasons.values())):
        raise AssertionError(f"{name} is not refused everywhere for one reason: {reasons}")
    answers = {check: "no" if why else "yes" for check, why in reasons.items()}
    return {"family": name, **answers, "why": "; ".join(told)}


def make_data(folder):
    """A small world, twelve questions a split, and its tokenizer."""
    from brittle.data.texts import read_lines
    from brittle.data.world_files import write_world
    from brittle.training.mini import make_tokenizer

    write_world(folder, 0, 6, 2)
    for path in folder.glob("mcq_*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:: max(1, len(lines) // 12)]), encoding="utf-8")
    return make_tokenizer(read_lines(folder / "tokenizer.txt"), 400)


def main():
    from matplotlib.figure import Figure
    from transformers.utils.logging import disable_progress_bar

    from support import figures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", help="With commas; all of them by default.")
    parser.add_argument("--checks", help="With semicolons; all of them by default.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    Figure.savefig = figures.draw_once()  # nobody looks at them
    names = given.families.split(";") if given.families else [*FAMILIES, *NESTED, *OTHERS]
    checks = given.checks.split(";") if given.checks else list(CHECKS)
    table = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        data = Path(folder) / "data"
        tokenizer = make_data(data)
        for name in names:
            home = Path(folder) / "family"
            table.append(measure(name, checks, data, tokenizer, home))
            print(*table[-1].values(), flush=True)
            shutil.rmtree(home)
    if given.out:
        with open(given.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["family", *checks, "why"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
