"""Who proposes tokens: one file a method. `eyas.interfaces.drafters()` lists them all."""
