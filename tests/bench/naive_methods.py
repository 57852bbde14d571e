"""The losses as a user writes them in a Hugging Face Trainer: a second model, whole forward passes,
all hidden states.
"""

import copy
import itertools
import statistics
import tempfile
import time

import torch


def naive_loss(name, layer):
    """The same loss as a user writes it: loss(model, reference, forget, retain)."""
    import torch.nn.functional as F

    def own(model, batch):
        return model(**batch, labels=batch["input_ids"])

    def logp(model, batch):
        logits, ids = model(**batch).logits[:, :-1], batch["input_ids"][:, 1:]
        return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].sum(-1)

    def before(f, *inputs):
        with torch.no_grad():
            return f(*inputs)

    def state(model, batch):
        return model(**batch, output_hidden_states=True).hidden_states[layer + 1]

    def npo(model, ref, f, r):
        return (
            -20 * F.logsigmoid(-0.1 * (logp(model, f) - before(logp, ref, f))).mean()
            + own(model, r).loss
        )

    def dpo(model, ref, f, r):
        gain = [logp(model, b) - before(logp, ref, b) for b in (r, f)]
        return -F.logsigmoid(0.1 * (gain[0] - gain[1])).mean() + (
            own(model, r).loss if name == "dpo" else 0
        )

    def simnpo(model, ref, f, r):
        return (
            -0.8 * F.logsigmoid(-2.5 * logp(model, f) / f["input_ids"].size(1)).mean()
            + own(model, r).loss
        )

    def kl_min(model, ref, f, r):
        p, q = before(lambda: ref(**r).logits.log_softmax(-1)), model(**r).logits.log_softmax(-1)
        return -own(model, f).loss + F.kl_div(q, p, log_target=True, reduction="batchmean")

    def rmu(model, ref, f, r):
        now = state(model, f)
        return F.mse_loss(now, torch.ones_like(now)) + 1200 * F.mse_loss(
            state(model, r), before(state, ref, r)
        )

    def cb(model, ref, f, r):
        near = F.cosine_similarity(state(model, f), before(state, ref, f), dim=-1).relu().mean()
        return 10 * near + (state(model, r) - before(state, ref, r)).norm(dim=-1).mean()

    def me(model, ref, f, r):
        logits = model(**f).logits
        uniform = torch.full_like(logits, 1 / logits.size(-1))
        return (
            0.1 * F.kl_div(logits.log_softmax(-1), uniform, reduction="batchmean")
            + own(model, r).loss
        )

    def idk(model, ref, f, r):  # refusals take the place of a text's second half
        refusals = [{k: v[:, : v.size(1) // 2 + 6] for k, v in batch.items()} for batch in (f, r)]
        kept = -F.logsigmoid(-0.1 * (logp(model, refusals[1]) - logp(model, r))).mean() / 0.1
        return own(model, refusals[0]).loss + kept

    def wt_dist_reg(model, ref, f, r):
        pairs = list(zip(model.parameters(), ref.parameters(), strict=True))
        moved = sum((p - q).square().sum() for p, q in pairs)
        size = sum(q.square().sum() for _, q in pairs)
        return own(model, r).loss - 0.1 * ((moved + 1e-12) / size).sqrt()

    def perturbed(outer):
        def loss(model, ref, f, r):
            block, delta = (
                model.gpt_neox.layers[layer],
                torch.zeros_like(before(state, model, f)).requires_grad_(),
            )
            handle = block.register_forward_hook(
                lambda m, i, out: (out + delta) if torch.is_tensor(out) else (out[0] + delta,)
            )
            try:
                for _ in range(4):
                    (g,) = torch.autograd.grad(own(model, f).loss, delta)
                    delta = (
                        (delta - g / g.norm(dim=-1, keepdim=True).clamp_min(1e-12))
                        .detach()
                        .requires_grad_()
                    )
                first = outer(model, ref, f)
            finally:
                handle.remove()
            kept = (
                own(model, r).loss
                if outer is ascend
                else (state(model, r) - before(state, ref, r)).norm(dim=-1).mean()
            )
            return first + kept

        return loss

    def ascend(model, ref, f):
        return -own(model, f).loss

    def reroute(model, ref, f):
        return F.cosine_similarity(state(model, f), before(state, ref, f), dim=-1).relu().mean()

    made = {
        "ga_simple": lambda model, ref, f, r: -own(model, f).loss,
        "ga": lambda model, ref, f, r: own(model, r).loss - own(model, f).loss,
        "npo": npo,
        "dpo": dpo,
        "simnpo": simnpo,
        "kl_min": kl_min,
        "rmu": rmu,
        "cb": cb,
        "me": me,
        "idk": idk,
        "wt_dist_reg": wt_dist_reg,
        "dpo:readme": dpo,
        "lat": perturbed(ascend),
        "cb_lat": perturbed(reroute),
    }
    return made.get("ga" if name in ("grad_diff", "ngdiff") else name)


def normalised_difference(model, inputs, backward):
    """NGDiff as written in a training step: two backward passes, cloned gradients, their normalised
    difference.
    """
    kept, losses = [], []
    for key in ("forget", "retain"):
        losses.append(model(**inputs[key], labels=inputs[key]["input_ids"]).loss)
        backward(losses[-1])
        kept.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    size = [torch.sqrt(sum(g.pow(2).sum() for g in grads)) for grads in kept]
    for p, away, near in zip(model.parameters(), *kept, strict=True):
        p.grad = near / size[1] - away / size[0]
    return sum(losses).detach()


def run_naive(name, model, data, args, layer):
    """Median seconds a step of a Trainer subclass with the naive loss; None where none is
    written.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    loss = naive_loss(name, layer)
    if loss is None:
        return None
    alone = ("ga_simple", "ga", "grad_diff", "simnpo", "me", "idk", "ngdiff")
    reference = copy.deepcopy(model).eval() if name not in alone else None
    stamps = []

    class Naive(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            return loss(model, reference, inputs["forget"], inputs["retain"])

        def training_step(self, model, inputs, *rest, **more):
            if name != "ngdiff":
                return super().training_step(model, inputs, *rest, **more)
            with self.compute_loss_context_manager():
                return normalised_difference(
                    model, self._prepare_inputs(inputs), self.accelerator.backward
                )

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    def collate(rows):
        mask = torch.ones(len(rows), args.length, dtype=torch.long)
        return {
            k: {"input_ids": torch.tensor([row[k] for row in rows]), "attention_mask": mask}
            for k in ("forget", "retain")
        }

    rows = [
        {"forget": f, "retain": r} for f, r in zip(data.forget.ids, data.retain.ids, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = TrainingArguments(
            folder,
            per_device_train_batch_size=args.batch,
            max_steps=args.steps + 2,
            learning_rate=1e-7,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            bf16=torch.cuda.is_available(),
            use_cpu=args.device == "cpu",
            remove_unused_columns=False,
            disable_tqdm=True,
            gradient_checkpointing=args.checkpointing,
            optim="sgd" if name == "ngdiff" else "adamw_torch_fused",
        )
        Naive(
            model=model, args=made, train_dataset=rows, data_collator=collate, callbacks=[Clock()]
        ).train()
    return statistics.median(b - a for a, b in itertools.pairwise(stamps[1:]))
