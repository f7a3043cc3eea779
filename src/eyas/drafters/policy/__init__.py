"""Tree policy: how large the draft tree of a cycle is.

`fixed` is the method's own tree, that of its paper. `auto` chooses the size in each cycle from measured costs
(`cost_aware`), and takes in what prompt lookup finds (`lookup`).
"""
