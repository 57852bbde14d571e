"""Everything that is imported. What is run lives in the folders beside this one.

The folders stand in layers, and there is one way down. A folder uses what stands above it in
LAYERS, never what stands beside or below it. Scripts use every folder; no folder uses a script.
tests/house/test_layers.py holds this, and docs/architecture.md explains it.

    base            the desk: errors, options, files, records, tables, figures; no model, no data
    maths           numbers alone: spectra, moments, intervals, tests
    data            texts, items, facts, the mini world, data sets; no model
    models          find, load, hook, filter, guard and ask a model
    training        the loop and what trains              metrics     what is measured of a model
    methods         one file a method, and what methods share
    unlearning, diagnostics, attacks, filters, inference   the studies: they never import each other
    report          CSVs to one page
    pipeline        steps, their order, their processes
"""

LAYERS = (
    "base",
    "maths",
    "data",
    "models",
    "training metrics",
    "methods",
    "unlearning diagnostics attacks filters inference",
    "report",
    "pipeline",
)
