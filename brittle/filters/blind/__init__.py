"""Filters fitted by somebody who never sees the forget texts: anonymise, estimates, fit, network."""
