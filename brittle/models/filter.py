"""The activation filter: one linear map at one site of a model, its folder on disk, and its hooks.

At token states h [.., d] (rows) the filter of strength a is

    h  ->  h - a g(h) ((h - offset) read) basis^T

basis [d, k] is orthonormal. read [d, k] is the basis itself, but for oblique filters (LEACE). g is
1, or for a gated filter 1 where h^T curve h + gate . h + threshold > 0, else 0. a = 0 changes no
bit; 1 removes the directions; beyond 1 they are reflected. Arithmetic is in float32 (float64 for
float64 states), whatever the model runs in.

Sites: `post_norm` is what the unembedding reads, `pre_norm` what the final norm reads, `block:L`
the output of block L.
"""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from brittle.base.errors import UserError
from brittle.maths.precision import wide
from brittle.models.architectures import architecture
from brittle.models.blocks import check_blocks, final_norm
from brittle.models.hooks import edit

FILES = ("filter.safetensors", "filter.json")
TENSORS = ("basis", "read", "offset", "gate", "curve")
SITES = "post_norm, pre_norm or block:L"


@dataclass
class Filter:
    """A filter, as the module's docstring defines it.

    `about` is what filter.json holds beside site and strength.
    """

    site: str
    basis: torch.Tensor  # [d, k]
    strength: float = 1.0
    read: torch.Tensor | None = None  # [d, k]; None: the basis
    offset: torch.Tensor | None = None  # [d]; None: 0
    gate: torch.Tensor | None = None  # [d]; None: every token
    curve: torch.Tensor | None = None  # [d, d] of a quadratic gate; None: a linear one
    threshold: float = 0.0
    about: dict = field(default_factory=dict)

    @property
    def k(self):
        return self.basis.shape[1]

    @property
    def linear(self):
        """Is it one matrix (no gate, no offset), so that it can be folded into weights?"""
        return self.gate is None and self.offset is None

    def __call__(self, h):
        """The filtered states, of the shape and dtype of h [.., d]."""
        if self.strength == 0:
            return h
        if h.device != self.basis.device:
            self.to(h.device)
        x = wide(h)
        removed = self.component(x) * self.strength
        if self.gate is not None:
            removed = removed * self.fires(x)[..., None]
        return (x - removed).to(h.dtype)

    def component(self, x):
        """What a strength of 1 removes from x [.., d], where the gate fires."""
        basis = self.basis.to(x.dtype)
        read = basis if self.read is None else self.read.to(x.dtype)
        return ((x if self.offset is None else x - self.offset.to(x.dtype)) @ read) @ basis.T

    def fires(self, x):
        """[..] bool: where the gate lets the filter act."""
        if self.gate is None:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        return self.score(x) + self.threshold > 0

    def score(self, x):
        """[..] what the gate's threshold is added to."""
        x = wide(x)
        linear = x @ self.gate.to(x.dtype)
        return linear if self.curve is None else linear + ((x @ self.curve.to(x.dtype)) * x).sum(-1)

    def to(self, device):
        """Move the tensors, in place. Returns self."""
        for name in TENSORS:
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(device))
        return self

    def at(self, strength):
        """The same filter at another strength (tensors shared)."""
        return replace(self, strength=float(strength))

    def first(self, k):
        """The filter of the leading k directions."""
        read = None if self.read is None else self.read[:, :k]
        return replace(self, basis=self.basis[:, :k], read=read)

    def check(self, config):
        """Raise UserError where the filter was made for another architecture or width.

        config: the model's, or the dict of its config.json. Returns self.
        """
        model = architecture(config)
        fitted_for = self.about.get("architecture", {})
        for key, value in model.items():
            if fitted_for.get(key, value) != value:
                raise UserError(
                    f"this filter was fitted for {key} {fitted_for[key]}, this model has {value}. "
                    "Fit one on this model."
                )
        if len(self.basis) != model["hidden_size"]:
            raise UserError(
                f"this filter is for states of width {len(self.basis)}, "
                f"this model's have {model['hidden_size']}."
            )
        return self

    def save(self, folder):
        """Write filter.safetensors and filter.json into `folder`, which must exist."""
        from safetensors.torch import save_file

        tensors = {
            name: getattr(self, name).detach().float().cpu().contiguous()
            for name in TENSORS
            if getattr(self, name) is not None
        }
        save_file(tensors, Path(folder) / FILES[0])
        about = {
            "site": self.site,
            "k": self.k,
            "strength": self.strength,
            "gated": self.gate is not None,
            "threshold": self.threshold,
            **self.about,
        }
        text = json.dumps(about, indent=1, default=float) + "\n"
        (Path(folder) / FILES[1]).write_text(text, encoding="utf-8")


def load(folder):
    """The filter of a folder. Raises UserError where there is none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not all((folder / name).is_file() for name in FILES):
        raise UserError(
            f"{folder} holds no filter ({', '.join(FILES)}). "
            "Make one with: uv run hooks/fit_filter.py --model M"
        )
    try:
        about = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        tensors = load_file(folder / FILES[0])
        loaded = Filter(
            site=about.pop("site"),
            strength=float(about.pop("strength")),
            threshold=float(about.pop("threshold")),
            basis=tensors["basis"],
            **{name: tensors.get(name) for name in TENSORS if name != "basis"},
        )
        # what save says of the tensors is read off the tensors
        loaded.about = {key: about[key] for key in about if key not in ("k", "gated")}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the filter in {folder} cannot be read ({error}). "
            "Make it again with hooks/fit_filter.py."
        ) from None
    return loaded


def block_of(site, model=None):
    """L of `block:L`, None for the two sites at the final norm.

    Raises UserError for what is no site, or, where a model is given, none of its sites.
    """
    name, _, number = site.partition(":")
    if site in ("post_norm", "pre_norm"):
        return None
    if name != "block" or not number.isdigit():
        raise UserError(f"--site {site}: choose {SITES}.")
    if model is not None:
        check_blocks(model, [int(number)], "--site block:L, L =")
    return int(number)


@contextmanager
def at_site(model, site, f):
    """Replace the states h [B, T, d] at `site` by f(h) in every forward pass of `model`.

    f may return None, to only look.
    """

    def changed(h):
        new = f(h)
        return h if new is None else new

    layer = block_of(site, model)
    if layer is not None:
        with edit(model, {layer: changed}):
            yield
        return
    module = model.get_output_embeddings() if site == "post_norm" else final_norm(model)
    handle = module.register_forward_pre_hook(lambda _m, args: (changed(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hooked(model, chosen):
    """`model` with the Filter `chosen` at work, in forward passes and generation alike.

    It is for the length of a `with` block.
    """
    chosen.check(model.config)
    with at_site(model, chosen.site, chosen):
        yield model


def load_filtered(model, folder):
    """Hook the filter in `folder` into `model` for good.

    Returns the filter; `filter.strength = 0` switches it off.
    """
    chosen = load(folder).to(next(model.parameters()).device)
    stack = ExitStack()
    stack.enter_context(hooked(model, chosen))
    model.filter_hook = stack  # held, so that the hooks stay as long as the model
    return chosen
