"""The frozen starting model that a loss compares with."""

import torch


class Frozen:
    """The reference of a loss: `with reference as model:` gives the starting weights.

    There are no gradients inside the block. Only what trains is kept twice: inside the block the
    trainable parameters hold their starting values.
    """

    def __init__(self, model):
        self.model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]

    def pairs(self):
        """[(parameter, its starting value), ...]"""
        return list(zip(self.trained, self.start, strict=True))

    def _swap(self, *, requires_grad):
        for k, p in enumerate(self.trained):
            # FSDP2 gathers from storage of its own: values are exchanged, not tensors
            if hasattr(p, "full_tensor"):
                now = p.detach().clone()
                p.detach().copy_(self.start[k])
                self.start[k].copy_(now)
                continue
            # autocast keeps bfloat16 copies of what requires gradients
            p.requires_grad_(requires_grad)
            p.data, self.start[k] = self.start[k], p.data

    def __enter__(self):
        self.was_training, self.no_grad = self.model.training, torch.no_grad()
        self.no_grad.__enter__()
        self._swap(requires_grad=False)
        return self.model.eval()

    def __exit__(self, *error):
        self._swap(requires_grad=True)
        self.model.train(self.was_training)
        self.no_grad.__exit__(*error)


class AdapterOff:
    """The reference of a loss: the same model with its adapters off. No second copy."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __enter__(self):
        model = self.wrapped.base_model.model
        self.was_training = model.training
        self.no_grad, self.off = torch.no_grad(), self.wrapped.disable_adapter()
        self.no_grad.__enter__()
        self.off.__enter__()
        return model.eval()

    def __exit__(self, *error):
        self.off.__exit__(*error)
        self.wrapped.base_model.model.train(self.was_training)
        self.no_grad.__exit__(*error)
