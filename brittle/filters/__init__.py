"""Fit, tune, bake and verify an activation filter.

Reading order: states, basis, gate, fit, folder, tuning, search, leaks, bake, verify, causes; then the studies in ablation/ and blind/.
"""
