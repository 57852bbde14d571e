"""What combines with methods: masks, trainable parameters, adapters, rules for keeping, the
collapse guard, saving.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from brittle.base.errors import UserError
from brittle.base.knobs import build
from brittle.methods import METHODS, masks, method_class
from brittle.methods.wrappers import Wrappers, read_names
from brittle.models.blocks import train_only
from brittle.models.load import load_model, load_tokenizer
from brittle.models.logprobs import nll
from brittle.training import adapters, keep
from brittle.training.loop import make_accelerator, train
from brittle.training.reference import AdapterOff, Frozen
from brittle.training.settings import Settings
from brittle.unlearning import collapse, saving
from support import tiny

torch.set_num_threads(1)
HEAD = "lm_head.weight"


def fit(settings, make_mask=lambda model: None):
    model, data = tiny.model(), tiny.Data()
    mask = make_mask(model)
    hooks = [mask] if mask else []

    def terms(step, micro, progress):
        return {"nll": nll(model, data.forget.batches(step)[micro])}

    train(model, terms, settings, make_accelerator(torch.device("cpu")), hooks=hooks)
    return {n: p.detach() for n, p in model.named_parameters()}


# -------------------------------------------------------------------------------------------- masks


def test_a_masked_gradient_is_zero_before_the_step():
    """So that no optimizer's momentum knows the masked entries."""
    trained, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    trained.grad = torch.tensor([1.0, 2.0, 3.0])
    chosen = torch.tensor([True, False, True])
    masks.Mask([(trained, chosen), (frozen, torch.ones(2, dtype=torch.bool))]).before_step()
    assert trained.grad.tolist() == [1.0, 0.0, 3.0] and frozen.grad is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_wagle_of_everything_is_no_mask_to_the_bit(optimizer):
    settings = Settings(steps=3, lr=1e-2, optimizer=optimizer, weight_decay=0.1)
    plain, masked = (
        fit(settings),
        fit(settings, lambda model: masks.wagle(model, tiny.Data(), 1.0, 1e-3)),
    )
    assert all(torch.equal(plain[n], masked[n]) for n in plain)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_masked_entries_do_not_move(optimizer):
    found = []

    def make(model):
        found.append(masks.wagle(model, tiny.Data(), 0.7, 1e-3))
        return found[0]

    settings = Settings(steps=4, lr=1e-2, optimizer=optimizer, weight_decay=0.5)
    after, before = fit(settings, make), dict(tiny.model().named_parameters())
    for (name, p), (_, trains) in zip(after.items(), found[0].pairs, strict=True):
        assert torch.equal(p[~trains], before[name][~trains]), name
    moved = sum(int((p != before[n]).sum()) for n, p in after.items())
    assert moved > 0.5 * sum(p.numel() for p in after.values())


def test_the_mask_is_as_dense_as_asked_also_with_ties():
    scores = [torch.tensor([[0.0, 0.0, 3.0], [0.0, 1.0, 1.0]]), torch.tensor([0.0, 2.0, 1.0, 0.0])]
    for count in range(11):
        made = masks.largest(scores, count)
        assert sum(int(m.sum()) for m in made) == count
        kept = torch.cat([s[m] for s, m in zip(scores, made, strict=True)])
        assert torch.equal(
            kept.sort().values, torch.cat([s.flatten() for s in scores]).sort().values[10 - count :]
        )


def test_wagle_scores_follow_the_formula():
    model, data, mu = tiny.model(dtype=torch.float64), tiny.Data(), 1e-3
    mask = masks.wagle(model, data, 0.25, mu)
    parameters = list(model.parameters())

    def one_pass(stream):
        order = sorted(range(8), key=lambda i: len(stream.ids[i]))
        parts = [order[:4], order[4:]]
        total = sum(nll(model, tiny.batch([stream.ids[i] for i in part])) for part in parts)
        return torch.autograd.grad(total, parameters)

    pairs = zip(parameters, one_pass(data.forget), one_pass(data.retain), strict=True)
    scores = [((p - r / mu) * f).abs().detach() for p, f, r in pairs]
    edge = torch.cat([s.flatten() for s in scores]).quantile(0.75)
    for (_, trains), s in zip(mask.pairs, scores, strict=True):
        clear = (s - edge).abs() > 1e-4 * edge
        assert torch.equal(trains[clear], (s > edge)[clear])


# -------------------------------------------------------------------------------------- what trains


def test_trainable_by_regex_and_by_file(tmp_path):
    model = tiny.model()
    assert read_names(model, r"layers\.1\.mlp") == [
        n for n, _ in model.named_parameters() if "layers.1.mlp" in n
    ]
    file = tmp_path / "mask.json"
    for content in ([HEAD], {"parameters": [HEAD]}):
        file.write_text(json.dumps(content))
        assert read_names(model, str(file)) == [HEAD]
    for content in ('["nothing"]', "[]", "{}", "3"):
        file.write_text(content)
        with pytest.raises(UserError, match="--trainable"):
            read_names(model, str(file))
    for bad in ("zzz", str(tmp_path / "none.json")):
        with pytest.raises(UserError):
            read_names(model, bad)


# ----------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("kind", tiny.MAKE)
def test_an_adapter_starts_at_nothing_trains_alone_and_merges(kind):
    model, batch = tiny.model(kind), tiny.batch(tiny.ids(4))
    with torch.no_grad():
        before = model(**batch).logits
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapped = adapters.add(model, None, 2, 4.0, "all", seed=0)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    data = tiny.Data()
    train(
        model,
        lambda step, micro, progress: {"nll": nll(model, data.forget.batches(step)[micro])},
        Settings(steps=3, lr=5e-2),
        make_accelerator(torch.device("cpu")),
    )
    model.eval()
    with torch.no_grad():
        after = model(**batch).logits
        assert not torch.allclose(after, before, atol=1e-3)
        with AdapterOff(wrapped) as frozen:
            assert torch.equal(frozen(**batch).logits, before)
        assert torch.equal(model(**batch).logits, after)
        merged = wrapped.merge_and_unload()
        assert torch.allclose(merged(**batch).logits, after, atol=1e-4)
    changed = [n for n, p in merged.named_parameters() if not torch.equal(p, base[n])]
    assert set(dict(merged.named_parameters())) == set(base) and changed
    for name in changed:  # of rank two, as asked
        assert (
            torch.linalg.matrix_rank(
                (dict(merged.named_parameters())[name] - base[name]).double(), rtol=1e-4
            )
            <= 2
        )


def test_adapters_sit_where_they_are_asked_to():
    def targets(chosen, names=None):
        return adapters.targets_of(tiny.model("llama"), names, chosen)

    assert all("self_attn" in n for n in targets("attn")) and all(
        "mlp" in n for n in targets("mlp")
    )
    assert set(targets("all")) == set(targets("attn")) | set(
        targets("mlp")
    ) and "lm_head" not in targets("all")
    assert targets(r"q_proj$") == [n for n in targets("attn") if n.endswith("q_proj")]
    assert targets("all", ["model.layers.0.mlp.down_proj.weight"]) == [
        "model.layers.0.mlp.down_proj"
    ]
    with pytest.raises(UserError, match="no linear module"):
        targets("nowhere")


ON_WEIGHTS = (
    *("wt_dist", "wt_dist_reg", "task_vector", "negmerge", "repair", "distill", "undo"),
    *("oracle_match", "repselect", "cir", "mcu", "mudman"),
)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_adapters_or_says_why_not(name):
    from support.started import SMALL, batches, knobs

    cls = method_class(name)
    rule = build(cls, name, {k: v for k, v in SMALL.items() if k in knobs(cls)})
    wrappers = Wrappers(lora_rank=2)
    if name in ON_WEIGHTS:
        with pytest.raises(UserError, match="acts on the weights themselves"):
            wrappers.check(name, rule)
        return
    wrappers.check(name, rule)
    model, data = tiny.model(), tiny.Data()
    wrapped = wrappers.choose(model, rule, 0)
    reference = wrappers.reference(model, wrapped, rule)
    assert reference is None or reference.wrapped is wrapped  # never a second copy
    rule.start(model, reference, data)
    sum(rule.losses(*batches(data), 0.5).values()).backward()
    with_gradient = [n for n, p in model.named_parameters() if p.grad is not None]
    assert with_gradient and all("lora_" in n for n in with_gradient)
    if name == "rmu":
        assert all("dense_4h_to_h" in n for n in with_gradient)


# ------------------------------------------------------------------------------------ the reference


def test_the_reference_keeps_only_what_trains():
    model = tiny.model()
    train_only(model, [HEAD])
    reference, batch = Frozen(model), tiny.batch(tiny.ids(3))
    assert [s.shape for s in reference.start] == [model.get_output_embeddings().weight.shape]
    with torch.no_grad():
        before = model(**batch).logits
        model.get_output_embeddings().weight.mul_(2)
        now = model(**batch).logits
    with reference as frozen:
        assert torch.equal(frozen(**batch).logits, before)
    assert (
        torch.equal(model(**batch).logits, now)
        and model.get_output_embeddings().weight.requires_grad
    )


def test_the_reference_does_not_disturb_a_graph_that_is_alive():
    model, batch = tiny.model(dtype=torch.float64), tiny.batch(tiny.ids(3))
    reference = Frozen(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    alone = torch.autograd.grad(nll(model, batch), list(model.parameters()))
    value = nll(model, batch)
    with reference as frozen:
        frozen(**batch)
    assert all(
        torch.equal(a, b)
        for a, b in zip(alone, torch.autograd.grad(value, list(model.parameters())), strict=True)
    )


# ------------------------------------------------------------------------------------------ keeping


LEVELS = {"base": {"forget": 1.0, "retain": 0.98}, "filtered": {"forget": 0.27, "retain": 0.99}}


@pytest.mark.parametrize(
    "text, forget, retain, holds",
    [
        ("first forget <= filtered", 0.27, 0.5, True),
        ("first forget <= filtered", 0.28, 1.0, False),
        ("first forget <= filtered+0.03", 0.3, 0.5, True),
        ("first forget <= 0.3 and retain >= base - 0.05", 0.3, 0.93, True),
        ("first forget <= 0.3 and retain >= base - 0.05", 0.3, 0.92, False),
        ("lowest forget where retain >= 0.95", 0.9, 0.95, True),
        ("lowest forget where retain >= 0.95", 0.1, 0.94, False),
        ("highest retain", 1.0, 0.0, True),
    ],
)
def test_rules(text, forget, retain, holds):
    assert keep.Rule(text).holds({"forget": forget, "retain": retain}, LEVELS) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "first",
        "forget <= 0.3",
        "first forget < 0.3",
        "first forget <=",
        "lowest",
        "best forget",
    ],
)
def test_rules_that_are_none(text):
    with pytest.raises(UserError, match="not understood"):
        keep.Rule(text)


def keeper(rule, values, folder):
    """Weights set to the step's number; measured accuracies from a list. Returns (keeper, weight,
    steps done).
    """
    p = torch.nn.Parameter(torch.zeros(2))
    model = torch.nn.Module()
    model.p = p
    todo = iter(values)
    made = keep.Keeper(
        lambda: dict(zip(("forget", "retain"), next(todo), strict=True)),
        2,
        model,
        keep.Rule(rule),
        LEVELS,
        folder,
    )
    for step in range(1, 2 * len(values) + 1):
        p.data.fill_(step)
        row = {}
        if made.after_step(step, row):
            break
        assert ("forget_accuracy" in row) == (step % 2 == 0)
    return made, p, step


def test_first_stops_at_the_first_that_holds(tmp_path):
    made, p, step = keeper(
        "first forget <= filtered", [(0.9, 1), (0.26, 1), (0.1, 1)], tmp_path / "best"
    )
    assert step == 4 and p[0] == 4 and "step 4 is kept" in made.finish()


def test_lowest_keeps_the_best_that_holds(tmp_path):
    values = [(0.9, 1), (0.3, 0.99), (0.1, 0.5), (0.4, 1)]
    made, p, step = keeper("lowest forget where retain >= 0.95", values, tmp_path / "best")
    assert step == 8 and p[0] == 8
    assert "step 4 is kept" in made.finish() and p[0] == 4
    made, p, _ = keeper("lowest forget where retain >= 2", values, tmp_path / "none")
    assert "no evaluation satisfied" in made.finish() and p[0] == 8


# --------------------------------------------------------------------------------- guard and saving


def test_the_guard_names_a_broken_model_and_lets_a_sound_one_pass(family, data):
    from brittle.data.items import read_splits

    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    texts, items = (data / "neutral.txt").read_text().splitlines(), read_splits(data)
    watch = collapse.CollapseCheck(model, tokenizer, texts, items)
    assert watch.kl(model) == pytest.approx(0, abs=1e-3)
    signs, measures = watch.check(model, 1.0)
    assert signs == [] and measures["constant_share"] < 0.9
    assert "above ln V" in watch.check(model, math.log(model.config.vocab_size) + 0.1)[0][0]
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    assert any("neutral text" in s for s in watch.check(model, None)[0])


def test_kl_of_the_collapse_check_is_the_mean_over_predicted_tokens(family, data):
    a, b, tokenizer = (
        load_model(family.base),
        load_model(family.filtered),
        load_tokenizer(family.base),
    )
    texts = (data / "neutral.txt").read_text().splitlines()[:5]
    watch = collapse.CollapseCheck(a, tokenizer, texts, {})
    total = count = 0
    for text in texts:
        x = torch.tensor([tokenizer(text)["input_ids"]])[:, : collapse.LENGTH]
        with torch.no_grad():
            p, q = (m(input_ids=x).logits[0, :-1].log_softmax(-1) for m in (a, b))
        total, count = total + (p.exp() * (p - q)).sum().item(), count + x.size(1) - 1
    assert watch.kl(b) == pytest.approx(total / count, rel=2e-2)


def test_an_update_below_the_dtypes_resolution_is_noticed(tmp_path):
    model = tiny.model()
    model.save_pretrained(tmp_path)
    matrices = sum(p.ndim == 2 for p in model.parameters())
    for size, lost in ((1e-6, matrices), (0.05, 0)):
        moved = tiny.model()
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        assert saving.unresolved(tmp_path, moved, torch.bfloat16) == (lost, matrices)


# -------------------------------------------------------------------------------------- the command


def unlearn(script, family, data, root, method, *more):
    return script(
        "unlearn/unlearn.py",
        "--model",
        family.base,
        "--method",
        method,
        "--forget",
        data / "forget.txt",
        "--root",
        root,
        "--steps",
        "4",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        *more,
    )


def test_adapter_mask_and_evaluation_by_the_command(family, data, tmp_path, script):
    done = unlearn(
        script,
        family,
        data,
        tmp_path,
        "npo",
        "--lora-rank",
        "2",
        "--save-adapter",
        "yes",
        "--eval-every",
        "2",
    )
    assert done.code == 0, done.err
    folder = tmp_path / "mini-base__npo" / "unlearned_model"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert set(dict(load_model(folder).named_parameters())) == set(
        dict(load_model(family.base).named_parameters())
    )
    header = (folder / "training_history.csv").read_text().splitlines()[0]
    assert "forget_accuracy" in header
    record = json.loads((folder / "training_history.run.json").read_text())["settings"]
    assert record["wrappers"]["lora_rank"] == 2 and set(record["collapse"]) >= {
        "signs",
        "neutral_kl",
    }
    done = unlearn(
        script,
        family,
        data,
        tmp_path,
        "ga",
        "--weight-mask",
        "wagle",
        "--mask-ratio",
        "0.5",
        "--eval-every",
        "1",
        "--keep",
        "best",
        "--rule",
        "first forget <= 1.0",
    )
    assert done.code == 0 and "50.00%" in done.out and "step 1 is kept" in done.out, done.err
    assert not (tmp_path / "mini-base__ga" / "best").exists()


@pytest.mark.parametrize(
    "method, more, words",
    [
        ("nope", [], "no method"),
        ("ga", ["--beta", "1"], "does not read --beta"),
        ("npo", ["--beta", "0"], "--beta 0"),
        ("rmu", ["--variant", "best"], "choose paper or readme"),
        ("ga", ["--variant", "paper"], "does not read --variant"),
        ("cb_lat", ["--lat-eps", "-1"], "at least 0"),
        ("rmu", ["--layer-id", "9"], "blocks 0 to 1"),
        ("wt_dist", ["--lora-rank", "4"], "acts on the weights"),
        ("ga", ["--lora-rank", "x"], "whole number"),
        ("ga", ["--lora-rank", "2", "--weight-mask", "wagle"], "Use one"),
        ("ga", ["--keep", "best"], "--eval-every"),
        ("ga", ["--keep", "best", "--eval-every", "1"], "--filtered"),
        ("ga", ["--trainable", "zzz"], "matches none"),
        (
            "task_vector",
            ["--keep", "best", "--eval-every", "1", "--rule", "highest retain"],
            "after the training",
        ),
        ("ga", ["--config-preset", "nope"], "rmu-zephyr"),
        ("ga", ["--config-preset", "rmu-zephyr"], "is for --method rmu"),
        ("ga", ["--forget-weight", "nan"], "--forget-weight nan"),
        ("idk", ["--refusals", "/nowhere"], "not found"),
        ("ga", ["--optimizer", "lion"], "choose adamw"),
        ("ga", ["--schedule", "step"], "choose"),
        ("ga", ["--lora-targets", "(", "--lora-rank", "2"], "regular expression"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    method, more, words, family, data, tmp_path, script
):
    done = unlearn(script, family, data, tmp_path, method, *more)
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.code == 2 and lines[-1].startswith("error:") and words in lines[-1], done.err
    assert "Traceback" not in done.err and not list(Path(tmp_path).rglob("*.safetensors"))


def test_config_presets_are_of_a_method_and_build():
    from brittle.unlearning.job import read_defaults

    path = Path("unlearn/presets.toml")
    import tomllib

    for name, config in tomllib.loads(path.read_text())["config"].items():
        assert config["source"]
        chosen = read_defaults(path, "default", config["method"], name)
        own = SimpleNamespace(**chosen.knobs)
        known = {k: v for k, v in vars(own).items() if k not in Wrappers.__dataclass_fields__}
        build(method_class(config["method"]), config["method"], known)
        build(Wrappers, "wrappers", {k: v for k, v in vars(own).items() if k not in known})
        Settings(**{k: v for k, v in {"steps": 1, **chosen.settings}.items() if k != "max_length"})
