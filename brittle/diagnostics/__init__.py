"""What the diagnostic scripts of experiment/ share.

Reading order: common, inputs (energies of module inputs), covariance, probes, lens.
"""
