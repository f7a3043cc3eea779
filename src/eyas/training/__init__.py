"""Training draft heads: the target answers prompts (`distil`), a head learns from the answers (`finish`).

A kind of heads has a file of its own: `eagle`, `eagle3`, `medusa`, `hydra`, `draft_lm`. Heads of every EAGLE
learn on chains of their own outputs (`chains`), most others the target's distribution (`distillation`); every
run is a `trainer.Trainer`, measured by `simulate`.
"""

import os

# MKL's sums depend on where arrays lie in memory, unless it is told before its first use; a run that was
# interrupted and resumed would then differ in the last bits.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
