"""Shared directions of linear modules: measured, and taken out of the gradients of their weights.

For a module y_t = W a_t let g_t be the gradient at its output, for token t. The usual gradient of W
is sum_t g_t a_t^T. With the shared directions taken out it is

    sum_t (P_g g_t)(P_a a_t)^T       P = 1 - B B^T, B orthonormal

What the module hands on, forward and backward, stays as it is: only its own weights learn less.
`B` holds the mean and the leading principal components of *centred* states, orthonormalised
together: projecting them off one after another would leave a part of the first in.
"""

from contextlib import contextmanager, nullcontext
from functools import partial

import torch

from brittle.base.errors import UserError
from brittle.maths.linalg import eigenvectors
from brittle.maths.moments import Moments
from brittle.maths.precision import wide
from brittle.models.architectures import layer_of
from brittle.models.blocks import mlp_matrices


def linear_modules(model, layers):
    """{name of the weight: module} of the MLP's linear modules in the blocks `layers`.

    Raises UserError where experts are stacked: their states are not those of a module.
    """
    from transformers.pytorch_utils import Conv1D

    modules = {f"{name}.weight": module for name, module in model.named_modules()}
    names = mlp_matrices(model, layers)
    of_name = {name: modules.get(name) for name in names}
    kinds = torch.nn.Linear | Conv1D
    stacked = [name for name, module in of_name.items() if not isinstance(module, kinds)]
    if stacked:
        raise UserError(
            f"{stacked[0]} is no linear module (stacked experts), so the directions that its "
            "tokens share cannot be told. Use another method."
        )
    return of_name


def basis_of(moments, count):
    """B [d, count], orthonormal, float32: of the mean and count - 1 principal components."""
    width = moments.width
    count = min(count, width)
    if not count or not moments.n:
        return torch.zeros(width, 0)
    columns = [moments.mean[:, None]]
    if count > 1:
        columns.append(eigenvectors(moments.covariance, count - 1)[1].flip(1))
    return torch.linalg.qr(torch.cat(columns, 1))[0].float()


def without(states, basis):
    """States [.., d] without their part in the span of `basis` [d, k], in float32 or wider."""
    if not basis.shape[1]:
        return states
    with torch.autocast(states.device.type, enabled=False):
        states = wide(states)
        basis = basis.to(states)
        return states - states @ basis @ basis.mT


def _product(module, states, weight, bias=None):
    """The states times a weight of the module's, plus a bias."""
    if isinstance(module, torch.nn.Linear):
        return torch.nn.functional.linear(states, weight, bias)
    turned = states @ weight  # Conv1D keeps [in, out]
    return turned if bias is None else turned + bias


def _stands_in(module, bases, counted):
    """A forward pass for `module`, whose weight gets the gradient without its shared directions."""
    inputs, outputs = bases

    def forward(states):
        plain = _product(module, states, module.weight.detach(), module.bias)
        learned = _product(module, without(states.detach(), inputs), module.weight)
        learned = without(learned, outputs) * counted[..., None]
        return plain + (learned - learned.detach()).to(plain.dtype)  # adds 0, and a gradient

    return forward


@contextmanager
def collapsed(modules, bases, counted):
    """Forward passes give the weights of `modules` gradients without their shared directions.

    modules: {name: module}. bases: {name: (B_a, B_g)}. counted [B, T]: 1 at the tokens that count.
    """
    for name, module in modules.items():
        module.forward = _stands_in(module, bases[name], counted)
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward


class Observer:
    """Moments of the inputs and of the output gradients of modules, over several passes."""

    def __init__(self, modules):
        self.modules = modules
        self.moments = {}  # {name: (of inputs, of output gradients)}

    @contextmanager
    def watch(self, counted):
        """In the block passes are observed, forward and backward, at the tokens counted [B, T]."""
        handles = [
            module.register_forward_hook(self._reader(name, counted))
            for name, module in self.modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reader(self, name, counted):
        def read(module, inputs, output):
            widths = inputs[0].shape[-1], output.shape[-1]
            of_inputs, of_gradients = self.moments.setdefault(name, tuple(map(Moments, widths)))
            of_inputs.update(inputs[0].detach(), counted)

            def read_gradient(gradient):
                of_gradients.update(gradient, counted)

            if output.requires_grad:
                output.register_hook(read_gradient)

        return read

    def bases(self, inputs, gradients, device):
        """{name: (B_a, B_g)} of so many directions each."""
        return {
            name: (
                basis_of(of_inputs, inputs).to(device),
                basis_of(of_gradients, gradients).to(device),
            )
            for name, (of_inputs, of_gradients) in self.moments.items()
        }


def inner_mask(batch):
    """[B, T]: 1 at the states that count, but each text's first and last real token."""
    from brittle.models.logprobs import state_mask

    real = batch["attention_mask"].bool()
    place = real.cumsum(1)
    ends = (place == 1) | (place == real.sum(1, keepdim=True))
    return state_mask(batch).bool() & real & ~ends


def _keep(store, k, _module, _inputs, output):
    store[k] = output


def down_outputs(model, batch, layers, within=None):
    """{block: output [B, T, D] of its MLP} for the blocks `layers`, by one pass that ends behind
    the deepest of them. within: a context of the pass.
    """
    from brittle.models.blocks import down_projections
    from brittle.models.hooks import hidden

    modules = {f"{name}.weight": module for name, module in model.named_modules()}
    store, handles = {}, []
    for name in down_projections(model, layers):
        keep = partial(_keep, store, layer_of(name))
        handles.append(modules[name].register_forward_hook(keep))
    try:
        with within or nullcontext():
            hidden(model, batch, [max(layers)])
    finally:
        for handle in handles:
            handle.remove()
    return store
