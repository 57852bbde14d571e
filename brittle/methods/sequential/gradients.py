"""One gradient of two: the retain gradient r and the forget gradient f, elementwise.

    sum          r + f
    same_sign    (r + f) where r f > 0, else 0
    asymmetric   r + (f where r f > 0, else 0)

Both must be of the whole step: filled over all micro-batches and all processes before they are
combined. `agreement` says how far the two agree.
"""

from brittle.maths.linalg import norm_of


def combine(kind, retain, forget):
    """[gradient, ...] of two lists of gradients."""
    combined = []
    for r, f in zip(retain, forget, strict=True):
        agree = r * f > 0
        if kind == "same_sign":
            combined.append((r + f) * agree)
        elif kind == "asymmetric":
            combined.append(r + f * agree)
        else:
            combined.append(r + f)
    return combined


def agreement(retain, forget):
    """How far the two gradients agree.

    Norms of both, their cosine, the share of entries that agree in sign, and the share of f's
    energy on those. Undefined values (a zero gradient) are None.
    """
    size_r, size_f = float(norm_of(retain)), float(norm_of(forget))
    pairs = list(zip(retain, forget, strict=True))
    dot = float(sum((r.float() * f.float()).sum() for r, f in pairs))
    agree = [r * f > 0 for r, f in pairs]
    same, count = float(sum(a.sum() for a in agree)), sum(a.numel() for a in agree)
    kept = float(sum(((f * a).float() ** 2).sum() for (_, f), a in zip(pairs, agree, strict=True)))
    return {
        "retain_gradient": size_r,
        "forget_gradient": size_f,
        "gradient_cosine": dot / (size_r * size_f) if size_r and size_f else None,
        "same_sign": same / count,
        "forget_energy_kept": kept / size_f**2 if size_f else None,
    }
