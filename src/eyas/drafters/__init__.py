"""Who proposes tokens: one file a method. `eyas.drafters.registry.methods()` lists them all."""
