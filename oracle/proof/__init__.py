"""The judge: one property for every backward pass.

    signature   shapes as text
    draw        an example: from plain values, seed, sizes and options, to arrays
    reference   what is right: torch's gradients, or the differentiated forward
    numeric     derivatives of a NumPy function, without torch: which of the two ways to trust
    slopes      the two ways, the complex step and central differences
    rounded     how far rounding can move what NumPy computes
    autograd    and what torch computes
    compare     is an array equal to its reference up to rounding?
    subject     a forward and a backward in any style, behind one call
    layer       a class, whose gradients a spy may see; attributes has the places in it
    styles      what belongs to a framework: tensors, torch, JAX
    finding     what an examination is about, and what it can find
    calls       how it is called, and what is noted of what it returns
    examine     the property, for one example
    mistakes    which mistake fits, by factors, places and terms of a wrong gradient
    report      the verdicts
    proof       what is to be proven of one backward, example by example, and the verdicts
    fuzz        many examples, and the smallest that fails
    check       check_backward and judge; pytest_plugin the same as a test

NumPy is all it needs; hypothesis draws the examples of check_backward, and torch is imported where
a reference is written in it. npnet is never imported here.
"""
