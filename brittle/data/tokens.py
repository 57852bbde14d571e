"""Which tokens of a tokenised prompt and answer belong to the answer."""


def common_prefix(a, b):
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def prompt_length(pieces):
    """Tokens of a text that ask: up to its last token ending in "?" or ":" that something follows,
    else half of them.
    """
    ends = [i for i, piece in enumerate(pieces[:-1], 1) if piece.rstrip().endswith(("?", ":"))]
    return ends[-1] if ends else max(1, len(pieces) // 2)


def answer_mask(batch, starts):
    """[B, T-1] bool: where a token of the answer is predicted.

    `starts` [B] is the place of each answer's first token.
    """
    import torch

    position = torch.arange(1, batch["input_ids"].size(1), device=starts.device)
    return (position >= starts[:, None]) & (batch["attention_mask"][:, 1:] == 1)
