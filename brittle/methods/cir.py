"""CIR: collapse of irrelevant representations (Sondej et al. 2025, arXiv:2509.11816).

    forget = mean over layers and tokens of max(0, <m_t, m_t_start>) / mean ||m_start||^2;    its gradient of each MLP matrix without shared directions: sum_t (P_g g_t)(P_a a_t)^T
    retain = mean ||h - h_start|| / mean ||h_start||
    theta <- theta - lr (g_forget / ||g_forget|| + v g_retain)

m is the output of an MLP, h of block `retain_layer`. a and g are the inputs and output gradients of
the MLPs' linear modules; P takes out the mean and the leading principal components that they have
on the forget texts (brittle/methods/directions.py). They are measured before each pass over the
texts. So lr is the length of the whole update. Stop by --kl-budget.

What this file decides: both gradients are taken at the same weights, where the publication takes
the retain step after the forget step. Denominators are means over the forget texts (m) and over the
first step's retain texts (h), so that micro-batches add up. The first and the last token of a text
are left out on the forget side. Forward passes end behind the deepest block that is read, and the
MLPs up to there train. A resumed run measures the directions where it resumes.
"""  # noqa: E501  (the first formula is one cell of a table)

from dataclasses import dataclass
from typing import ClassVar

from brittle.base.errors import UserError
from brittle.base.knobs import knob, log_range, one_of
from brittle.methods.base import Method

OBSERVED = 16  # texts a batch where directions are measured


@dataclass
class CIR(Method):
    PASSES: ClassVar[int] = 200  # over the forget texts at most, where --steps is not given
    kind: ClassVar[str] = "weight-space"
    needs_reference: ClassVar[bool] = True
    layer_id: tuple = knob(
        (6, 7, 8, 9, 10, 11),
        "Block(s) whose MLP output is broken.",
        low=0,
        noun="block numbers",
        blocks=True,
        search=one_of("0/4", "0/4,1/4", "1/4", "1/4,2/4"),
    )
    retain_layer: int = knob(12, "Block whose output is kept.", low=0, blocks=True)
    retain_weight: float = knob(
        1.5e-3, "Weight v of the retain gradient.", low=0, search=log_range(1e-4, 1)
    )
    activation_components: int = knob(24, "Directions taken out of the inputs.", low=0)
    gradient_components: int = knob(36, "Directions taken out of the output gradients.", low=0)

    def trains(self, model):
        from brittle.methods.directions import linear_modules
        from brittle.models.blocks import check_blocks

        check_blocks(model, self.layer_id)
        check_blocks(model, [self.retain_layer], "--retain-layer")
        deepest = max(*self.layer_id, self.retain_layer)
        return list(linear_modules(model, range(deepest + 1)))

    def plan(self, steps, one_pass):
        self.steps, self.pass_steps = steps or self.PASSES * one_pass, one_pass
        return self.steps, ()

    def start(self, model, reference, data):
        from brittle.methods import directions

        super().start(model, reference, data)
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise UserError(
                "--gradient-checkpointing computes modules anew in the backward pass, where their "
                "shared directions are not taken out. Leave it out."
            )
        self.data = data
        self.modules = directions.linear_modules(model, range(max(self.layer_id) + 1))
        self.measure_start()
        self.measured_pass = None

    def measure_start(self):
        """The sizes of m and h at the start: the denominators."""
        import torch

        from brittle.methods.directions import down_outputs
        from brittle.models.hooks import hidden
        from brittle.models.logprobs import state_mean

        totals, count = dict.fromkeys(self.layer_id, 0.0), 0
        with torch.no_grad():
            for batch, counted in self.forget_batches():
                before = down_outputs(self.model, batch, self.layer_id)
                count += int(counted.sum())
                for k in self.layer_id:
                    totals[k] += float(self.squares(k, before[k])[counted].sum())
            self.sizes = {k: total / max(count, 1) or 1.0 for k, total in totals.items()}
            norms = []
            for batch in self.data.retain.batches(0):
                h = hidden(self.model, batch, [self.retain_layer])[self.retain_layer]
                norms.append(state_mean(torch.linalg.vector_norm(h.float(), dim=-1), batch))
        self.retained_size = float(sum(norms) / len(norms))

    def forget_batches(self):
        """(batch, its states that count [B, T]) over all forget texts once."""
        from brittle.data.batches import batches
        from brittle.methods.directions import inner_mask

        forget = self.data.forget
        device = self.model.device
        for _, batch in batches(forget.examples, forget.pad_id, OBSERVED, device):
            yield batch, inner_mask(batch)

    def read(self, k, m):
        """What is compared of the MLP output m [B, T, D] of block k; `mcu` leaves out a part."""
        return m

    def squares(self, k, m):
        """||m_t||^2 [B, T], of what is compared."""
        from brittle.maths.precision import wide

        return wide(self.read(k, m)).square().sum(-1)

    def breaking(self, batch, counted, now):
        """Sum over layers and tokens of max(0, <m, m_start>) / mean ||m_start||^2, over the number
        of layers. now: {block: m}.
        """
        from brittle.maths.precision import wide
        from brittle.methods.directions import down_outputs

        with self.reference as frozen:
            before = down_outputs(frozen, batch, self.layer_id)
        total = 0.0
        for k in self.layer_id:
            products = (wide(self.read(k, now[k])) * wide(self.read(k, before[k]))).sum(-1)
            total = total + (products.clamp_min(0) * counted).sum() / self.sizes[k]
        return total / len(self.layer_id)

    def measure_directions(self):
        """Bases of each module's inputs and output gradients, of a pass over the forget texts."""
        import torch

        from brittle.methods import directions

        observer = directions.Observer(self.modules)
        trained = [module.weight for module in self.modules.values()]
        for batch, counted in self.forget_batches():
            with observer.watch(counted):
                now = directions.down_outputs(self.model, batch, self.layer_id)
                loss = self.breaking(batch, counted, now)
                torch.autograd.grad(loss, trained, allow_unused=True)
        self.bases = observer.bases(
            self.activation_components, self.gradient_components, self.model.device
        )

    def renew(self, progress):
        """Measure the directions at the beginning of each pass over the texts."""
        steps, of_pass = getattr(self, "steps", 1), getattr(self, "pass_steps", 1)
        current = round(progress * steps) // of_pass
        if current != self.measured_pass:
            self.measured_pass = current
            self.measure_directions()

    def losses(self, forget, retain, progress):
        import torch

        from brittle.maths.precision import wide
        from brittle.methods import directions
        from brittle.models.hooks import hidden
        from brittle.models.logprobs import state_mean

        self.renew(progress)
        counted = directions.inner_mask(forget)
        within = directions.collapsed(self.modules, self.bases, counted)
        now = directions.down_outputs(self.model, forget, self.layer_id, within)
        h = hidden(self.model, retain, [self.retain_layer])[self.retain_layer]
        with self.reference as frozen:
            h_start = hidden(frozen, retain, [self.retain_layer])[self.retain_layer]
        moved = torch.linalg.vector_norm(wide(h) - wide(h_start), dim=-1)
        return {
            "forget": self.breaking(forget, counted, now) / forget.n_states,
            "retain": state_mean(moved, retain) / self.retained_size,
        }

    def combine(self, gradients, lr):
        from brittle.maths.linalg import norm_of

        forget, retain = gradients.pop("forget"), gradients.pop("retain")
        size = norm_of(forget).item()
        scale = 1 / size if size > 0 else 0.0
        return [
            f.mul_(scale).add_(r, alpha=self.retain_weight)
            for f, r in zip(forget, retain, strict=True)
        ]
