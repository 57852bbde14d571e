"""Filters fitted by somebody who never sees the forget texts.

anonymise   what the owner does before texts leave
estimates   forget states estimated from anonymised text
network     the network that maps states of anonymised text to those of the original
fit         a filter from each estimate
"""
