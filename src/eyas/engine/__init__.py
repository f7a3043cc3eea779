"""The cycle of drafting, verification and commit, and the pure functions it is made of."""
