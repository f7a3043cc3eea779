"""Who computes: one folder a runtime. Importing this package imports none of them."""
