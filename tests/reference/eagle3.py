"""An EAGLE-3 head by the formulas of the paper (arXiv 2503.01840, Sec. 3.1), in float64 NumPy.

One whole pass over one path, without a cache; nothing is shared with `eyas`. Weights have the names of the
authors' files.
"""

import numpy as np


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotated(heads, theta):
    """Rotate (T, n, E) by their positions, halves against each other."""
    half = heads.shape[-1] // 2
    angles = np.arange(len(heads))[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = heads[..., :half], heads[..., half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def attention(query, key, value, theta):
    """(T, A, E) queries over (T, G, E) keys and values, causal; (T, A E)."""
    repeat = query.shape[1] // key.shape[1]
    query, key = rotated(query, theta), np.repeat(rotated(key, theta), repeat, axis=1)
    scores = np.einsum("tae,sae->ats", query, key) / np.sqrt(query.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[1:])) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("ats,sae->tae", weights, np.repeat(value, repeat, axis=1))
    return mixed.reshape(len(mixed), -1)


class Eagle3Reference:
    """A head of one layer.

    Args:
        weights: by the authors' names.
        config: its config.json.
    """

    def __init__(self, weights, config):
        self.weights = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}
        self.config = config
        self.eps = config.get("rms_norm_eps", 1e-6)

    def project(self, name, x):
        """W x, and b where there is one."""
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        return rms_norm(x, self.weights[f"{name}.weight"], self.eps)

    def fused(self, states):
        """g (T, h) of the target's hidden states, a list of (T, h)."""
        if self.config.get("fc_norm"):
            states = [self.norm(f"fc_norm.{number}", state) for number, state in enumerate(states)]
        joined = np.concatenate(states, axis=-1)
        if self.config.get("norm_before_fc"):
            joined = self.norm("input_norm", joined)
        return self.project("fc", joined)

    def layer(self, embeddings, g):
        """r (T, h) after the layer, of the tokens' embeddings and g at each position."""
        config, theta = self.config, self.config.get("rope_theta", 10000.0)
        normed = self.norm("midlayer.hidden_norm", g)
        r = normed if config.get("norm_before_residual") else g
        x = np.concatenate((self.norm("midlayer.input_layernorm", embeddings), normed), axis=-1)
        sizes = [config["num_attention_heads"], config["num_key_value_heads"], config["num_key_value_heads"]]
        heads = [
            self.project(f"midlayer.self_attn.{name}_proj", x).reshape(len(x), count, -1)
            for name, count in zip("qkv", sizes, strict=True)
        ]
        r = r + self.project("midlayer.self_attn.o_proj", attention(*heads, theta))
        y = self.norm("midlayer.post_attention_layernorm", r)
        gate, up = self.project("midlayer.mlp.gate_proj", y), self.project("midlayer.mlp.up_proj", y)
        return r + self.project("midlayer.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)

    def log_probs(self, embeddings, states, path_embeddings):
        """(M,) of the draft's next token behind a drafted path.

        Args:
            embeddings: (T, h) of the tokens after each of T positions that the target has seen.
            states: the target's hidden states there, a list of (T, h).
            path_embeddings: (D, h) of the drafted tokens behind these.
        """
        g, r = self.fused(states), None
        for depth in range(len(path_embeddings) + 1):
            tokens = np.concatenate((embeddings, path_embeddings[:depth]))
            r = self.layer(tokens, g)[-1:]
            g = np.concatenate((g, self.norm("norm", r) if self.config.get("norm_output") else r))
        logits = self.project("lm_head", self.norm("norm", r))[0]
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


# A head and inputs that never change, for golden drafts.
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
VOCAB, DRAFT_IDS, TAPS = 64, range(0, 64, 2), 3
VARIANTS = {
    "plain": {},
    "norm_before_residual": {"norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True, "rope_theta": 500.0},
    "fc_norm and norm_output": {"fc_norm": True, "norm_output": True},
}


def frozen(variant):
    """Weights by the authors' names, config, the target's embedding, and hidden states of 5 positions."""
    rng = np.random.RandomState(11)  # whose stream is frozen, unlike the newer generators'
    hidden, inner, keys = SIZES["hidden_size"], SIZES["intermediate_size"], 16

    def matrix(*shape):
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    weights = {
        "fc.weight": matrix(hidden, TAPS * hidden),
        "norm.weight": 1 + matrix(hidden),
        "lm_head.weight": matrix(len(DRAFT_IDS), hidden),
        "input_norm.weight": 1 + matrix(TAPS * hidden),
        **{f"fc_norm.{tap}.weight": 1 + matrix(hidden) for tap in range(TAPS)},
    }
    for name, shape in {
        "self_attn.q_proj": (hidden, 2 * hidden),
        "self_attn.k_proj": (keys, 2 * hidden),
        "self_attn.v_proj": (keys, 2 * hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }.items():
        weights[f"midlayer.{name}.weight"] = matrix(*shape)
    for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
        weights[f"midlayer.{name}.weight"] = 1 + matrix(hidden)
    table, states = matrix(VOCAB, hidden), [matrix(5, hidden) for _ in range(TAPS)]
    config = {**SIZES, "num_hidden_layers": 1, "rms_norm_eps": 1e-5, **VARIANTS[variant]}
    for switch, prefix in (("norm_before_fc", "input_norm"), ("fc_norm", "fc_norm.")):
        if not config.get(switch):
            weights = {name: array for name, array in weights.items() if not name.startswith(prefix)}
    return weights, config, table, states


TOKENS, PATH = [5, 9, 11, 3, 60], [8, 62, 8]  # after the positions, and drafted behind them


def golden_drafts():
    """The five best drafts behind the positions and behind each drafted token, with log-probabilities."""
    cases = []
    for variant in VARIANTS:
        weights, config, table, states = frozen(variant)
        head = Eagle3Reference(weights, config)
        drafts = []
        for depth in range(len(PATH) + 1):
            log_probs = head.log_probs(table[TOKENS], states, table[PATH[:depth]])
            best = np.argsort(-log_probs, kind="stable")[:5]
            drafts.append([[DRAFT_IDS[column], round(float(log_probs[column]), 6)] for column in best])
        cases.append({"variant": variant, "drafts": drafts})
    return cases
