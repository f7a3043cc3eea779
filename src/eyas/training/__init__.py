"""Training draft heads: the target answers prompts (`distil`), a head learns from the answers (`finish`).

A kind of heads has a file of its own: `eagle`, `medusa`, `hydra`, `draft_lm`. Most learn the target's
distribution (`distillation`); every run is a `trainer.Trainer`, measured by `simulate`.
"""
