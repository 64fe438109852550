"""npnet side by side with what its user would pick instead: `python -m benchmarks --help`.

A row is a model with its data and its optimiser (rows.py); a peer is one way to train it (peers/).
All peers of a row start from the same parameters, and before anything is timed each of them takes a
step on one common batch and must find npnet's loss before and after it (measure.agree).
"""
