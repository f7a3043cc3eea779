"""Who proposes tokens: one file a method. `eyas.registry.methods()` lists them all."""
