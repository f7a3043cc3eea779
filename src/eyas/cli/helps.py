"""Help texts of the options that are generated from dataclass fields. A test keeps this table complete.

Defaults are not repeated here: they are read from the fields.
"""

MODEL_HELPS = {
    "model": "directory of a Hugging Face model, a hub id, or a name that `eyas models` lists; "
    "without it the default model, which is fetched at its first use",
    "head": "directory of the method's draft networks (for sps also of a whole model); without it: in the "
    "model's head/, the cache, those shipped",
    "method": "how tokens are drafted (auto: eagle2 where a head is found, otherwise pld)",
    "runtime": "what computes: native, torch, or auto (native where it can)",
    "dtype": "precision: float32, bfloat16, int8 (native alone), float16, float64 (torch alone), or auto",
    "draft_dtype": "precision of the draft's networks, which never changes the answer; or auto",
    "threads": "threads of the runtime; without it one per physical core",
    "device": "where it computes: cpu, or as torch names it, such as cuda or cuda:1",
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
    "tree": "auto: each cycle chooses the size of its tree from costs measured here; fixed: the sizes below, "
    "which is also what giving one of them means",
    "draft_tokens": "nodes of the draft tree that the target checks, root not counted",
    "depth": "levels of the draft tree below the root",
    "tree_top_k": "nodes expanded on each level",
    "draft_sampling": "how the tree's children are chosen when tokens are drawn: with the sampler's own "
    "noise, or the most probable; the answer is the same",
    "expand_by_value": "expand nodes by the product of confidences on their path, not by their own alone",
    "copies": "trees of measured size also hold what followed the newest tokens before",
    "rerank": "keep the best nodes of all, not those that were expanded",
    "score_precision": "precision in which node values are summed: float32, or the model's own",
    "n": "answers to one prompt",
    "logprobs": "log-probabilities of each token and of its K best alternatives",
    "system": "system message before the prompt",
    "raw": "take the prompt as it is, without the chat template",
}

DISTIL_HELPS = {
    "temperatures": "at which prompts are answered",
    "shares": "of the prompts, one for each temperature",
    "max_new_tokens": "length of an answer at most",
    "max_prompt_tokens": "longer prompts are left out",
    "batch_size": "prompts answered at a time",
    "loop_tokens": "end an answer after so many tokens in a row that repeat earlier ones; 0 goes on",
    "limit": "answer the first N prompts that fit; without it every one",
    "seed": "of the draws",
}

TRAINING_HELPS = {
    "draft_vocab": "keep the N most frequent tokens as draft vocabulary; without it the whole one",
    "max_length": "rows of a sequence; what is beyond is left out",
    "epochs": "passes over the answers",
    "minutes": "train for so long instead, steps only; evaluations come on top",
    "batch_rows": "padded rows of a batch",
    "learning_rate": "of AdamW, at its peak",
    "warmup": "share of the run in which the learning rate rises",
    "schedule": "how the learning rate falls after that",
    "weight_decay": "of matrices; norms and biases are not decayed",
    "clip_norm": "gradients are cut to this norm",
    "prompt_share": "share of prompt rows that count too, at half weight",
    "ema": "decay of the averaged weights that are kept; 0 keeps the last ones",
    "held_out_every": "one answer in so many is held out",
    "save_every": "steps between two saved states",
    "evaluate_every": "steps between two measurements of acceptance on held-out answers",
    "seed": "of weights, order and noise",
}

HEAD_HELPS = TRAINING_HELPS | {
    "layers": "decoder layers of the head; without it 1, or those of --start",
    "intermediate_size": "of the head's MLP; without it the target's, or that of --start",
    "loss_vocab": "compare the N most frequent tokens in the loss; without it those drafted from",
    "regression_weight": "of the loss on features",
    "ce_weight": "of the loss on token distributions",
    "scaled_regression": "divide features by their spread per dimension",
    "noise": "features get uniform noise of this size, times 512 / length",
    "steps": "of training-time test; 1 is teacher forcing alone",
    "step_decay": "weight of step s is this to the power of s",
    "step_share": "share of rows that steps after the first ask for",
    "first_pair": "train on the pair of last prompt feature and first answer token too",
    "closed_form_start": "start from a linear map fitted in closed form",
}

_DRAFT_HELPS = TRAINING_HELPS | {
    "draft_vocab": "keep the N most frequent tokens as draft vocabulary",
    "precision": "of the file's matrices; int8 halves it",
}
_HEADS_HELPS = _DRAFT_HELPS | {
    "heads": "how many; each drafts one level",
    "layers": "residual blocks of a head",
    "head_decay": "weight of head k = 0.. is this to the power of k",
    "closed_form_start": "start from linear maps fitted in closed form",
}
DRAFT_HELPS = {
    "medusa": _HEADS_HELPS,
    "hydra": _HEADS_HELPS
    | {
        "layers": "residual blocks of a head; those after the first are one and the same",
        "arch": "with a decoder layer over the features (Hydra++), or without",
        "intermediate_size": "of that layer's MLP; without it the target's",
    },
    "draft-lm": _DRAFT_HELPS
    | {
        "layers": "decoder layers",
        "intermediate_size": "of their MLPs; without it the target's",
        "target_start": "start from copies of the target's first layers",
    },
}
