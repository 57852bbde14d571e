"""A model with the texts that fitting and tuning share, each set in two parts."""

from dataclasses import dataclass

from brittle.data.examples import DEFAULT
from brittle.filters.states import candidate_sites, parted, read_filter_texts
from brittle.models.blocks import length_limit
from brittle.models.load import load_model, load_tokenizer
from brittle.models.readout import check_unembedding


@dataclass
class FilterData:
    """A model and its texts as FilterTexts: what is fitted on, and what strengths are read on.

    `fit` and `tune` are {forget, retain, general?, unseen?: [FilterText]}; no stretch of a file is
    in both. Never-seen text is no part of any fit, so strengths are read on all of it.
    """

    model: object
    tokenizer: object
    fit: dict
    tune: dict

    @classmethod
    def read(
        cls,
        folder,
        paths,
        max_samples,
        max_length=None,
        device="auto",
        dtype="auto",
        reading=DEFAULT,
    ):
        """Load the model of `folder`, and the texts of `paths`, {name of the set: file}.

        reading: whether a chat model's questions go through its template.
        Raises UserError for a family whose logits cannot be told from what its unembedding reads.
        """
        model, tokenizer = load_model(folder, device, dtype), load_tokenizer(folder)
        check_unembedding(model)
        limit = length_limit(max_length, model.config)
        fit, tune = {}, {}
        for name, path in paths.items():
            examples = read_filter_texts(
                tokenizer, path, max_samples, limit, f"{name} texts", reading
            )
            fit[name], tune[name] = parted(examples)
            if name == "unseen":
                tune[name] = examples
        return cls(model, tokenizer, fit, tune)

    @property
    def pad_id(self):
        return self.tokenizer.pad_token_id

    def sites(self):
        return candidate_sites(self.model)
