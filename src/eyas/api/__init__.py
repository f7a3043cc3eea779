"""The Python interface: load a model, then generate, stream or converse."""
