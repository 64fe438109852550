"""The learner's room: a file with a forward and gradients left to derive, and its judge.

templates   the files, cut out of npnet's own source
answers     what a learner's file returned, and the verdict on it
"""

EXERCISES = ("chunked", "cross_entropy", "batch_norm", "layer_norm", "attention", "gru")
