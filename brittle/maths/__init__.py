"""Numbers alone: pure functions of tensors and arrays.

Reading order: precision, linalg (norms, spectra, ranks, angles), moments, intervals, entities
(intervals over groups), hypotheses (tests and effect sizes), agreement (of judges), information
(leak bits).
"""
