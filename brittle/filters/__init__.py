"""The activation filter, in reading order.

    states      which tokens are the answer, and a model's states that predict them
    basis, gate, fit
                directions in closed form, a detector of forget-like tokens, the filter of a site
    target      what is wanted of a filter: limits to keep, a target to match
    tuning, strength, search
                what a filter does at any strength, the strength, site and size and gate
    leaks       what a filtered model still gives away
    folder, data
                the filter's folder, and the texts that fitting and tuning share
    bake, verify
                the filter saved in its model, and is it the hooked one
    causes      why a filter may forget the retain set instead
    ablation/   studies of its parts
    blind/      filters by who never sees the forget texts

The map itself, at work in a model, is brittle/models/filter.py.
"""
