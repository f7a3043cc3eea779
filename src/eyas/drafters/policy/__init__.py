"""Tree policy: how large the draft tree of a cycle is."""
