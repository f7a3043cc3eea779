"""Help texts of the options that are generated from dataclass fields. A test keeps this table complete.

Defaults are not repeated here: they are read from the fields.
"""

MODEL_HELPS = {
    "model": "directory of a Hugging Face model, a hub id, or a name that `eyas models` lists; "
    "without it the default model, which is fetched at its first use",
    "head": "directory of the EAGLE head; without it: in the model's head/, the cache, those shipped",
    "method": "how tokens are drafted",
    "runtime": "what computes: torch, or auto",
    "dtype": "precision: float32, bfloat16, float16, float64, or auto (the fastest here)",
    "threads": "threads of the runtime; without it one per physical core",
}

GENERATION_HELPS = {
    "temperature": "0 is greedy; above 0 tokens are drawn",
    "top_k": "draw among the K best tokens; 0 is off",
    "top_p": "draw among the best tokens that hold this mass, in (0, 1]; 1 is off",
    "min_p": "drop tokens less probable than this times the best one's; 0 is off",
    "repetition_penalty": "divides the logits of tokens of the prompt and the answer; 1 is off",
    "presence_penalty": "taken from the logits of tokens in the answer, in [-2, 2]; 0 is off",
    "frequency_penalty": "as presence, times the number of occurrences; 0 is off",
    "logit_bias": "add X to the logit of token ID; may be repeated",
    "seed": "of the draws; without it one is drawn, and --json shows it",
    "max_new_tokens": "length of the answer at most",
    "min_new_tokens": "no stop token before so many",
    "stop": "end before this string; may be repeated",
    "stop_token_ids": "end at these token ids too, separated by spaces or commas",
    "ignore_eos": "go on past the model's own stop tokens",
    "draft_tokens": "nodes of the draft tree that the target checks, root not counted",
    "depth": "levels of the draft tree below the root",
    "tree_top_k": "nodes expanded on each level",
    "draft_sampling": "how the tree's children are chosen when tokens are drawn: with the sampler's own "
    "noise, or the most probable; the answer is the same",
    "score_precision": "precision in which node values are summed: float32, or the model's own",
    "n": "answers to one prompt",
    "logprobs": "log-probabilities of each token and of its K best alternatives",
    "system": "system message before the prompt",
    "raw": "take the prompt as it is, without the chat template",
}
