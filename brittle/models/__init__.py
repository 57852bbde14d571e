"""Find, load, hook, filter, guard and ask a model.

Reading order: find, architectures (what differs between them), weights (files without a model),
twin (two folders of one model), blocks (parts of a model), hooks (read and replace block outputs),
logprobs, filter (a linear map at one site), filtered (a saved model with a filter inside),
tokenizers (made to fit a model), load, readout, quantize, initial (weights before any training),
generate, guards, guarded.
"""
