"""How other programs keep EAGLE-3 heads: three layouts, each read and written in one place.

    eagle3         the authors' folders, and those of SpecForge and AngelSlim; vLLM, SGLang and llama.cpp's
                   converter read them
    speculators    folders of the `speculators` library, with a nested config; vLLM reads them
    gguf           a file for llama.cpp, with the target's tokenizer

Where programs read one entry differently:

* Layers whose inputs are the taps stand at the top level of config.json. SGLang reads a nested list of
  the layers *before* (it adds 1), which SpecForge writes alone. The authors' code has its own three.
* `norm_before_residual` is false where an authors' config does not say. Where one of `speculators` does not,
  vLLM takes true and that library false, so it has to be there.
* In GGUF files `d2t` holds the target's ids, not offsets, and query and key rows are ordered in pairs.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.drafters.head_arrays import Arrays, write_arrays
from eyas.drafters.head_layers import stack_document
from eyas.drafters.heads import (
    HeadCheckpoint,
    HeadLayout,
    HeadTarget,
    offsets_of,
    write_config,
)
from eyas.errors import CheckpointError
from eyas.models.families.common import DRAFT, GGUF, Unsupported
from eyas.models.families.gguf import GGUFMetadata, usual_config
from eyas.models.formats import to_float32
from eyas.models.gguf_write import write_gguf
from eyas.models.sources import GGUFSource, is_gguf, open_gguf
from eyas.models.spec import Rope
from eyas.models.weights import BFLOAT16, read_json

TAPS = "eagle_aux_hidden_state_layer_ids"
SWITCHES = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
FIRST = "layers.0."  # where the authors have midlayer.
GGUF_ARCHITECTURE = "eagle3"
_TOKENS = "tokenizer.ggml.tokens"
Entries = dict[str, Any]


def authors_taps(layers: int) -> tuple[int, int, int]:
    """The layers of a target whose inputs a head reads that does not name them."""
    return 2, layers // 2, layers - 3


# ---- the authors', SpecForge's, AngelSlim's ----


def _knows_authors(document: Mapping[str, Any], names: Collection[str]) -> bool:
    is_said = any("eagle3" in str(name).lower() for name in document.get("architectures") or ())
    has_norm = any(name.endswith(".hidden_norm.weight") for name in names)  # which no other head has
    return (is_said or has_norm) and not _knows_speculators(document, names)


def _read_authors(document: Mapping[str, Any], arrays: Arrays, source: Path) -> tuple[Entries, Arrays]:
    nested = document.get("eagle_config")
    nested = nested if isinstance(nested, dict) else {}
    if nested.get("use_aux_hidden_state", True) is False:
        raise CheckpointError(
            f"{source.parent}/config.json has use_aux_hidden_state false, but an EAGLE-3 head reads hidden "
            "states of inner layers; use another head."
        )
    entries = {**{name: nested[name] for name in SWITCHES if name in nested}, **document}
    before = nested.get(TAPS)
    if entries.get(TAPS) is None and before is not None:
        is_list = isinstance(before, list) and all(type(tap) is int for tap in before)
        entries[TAPS] = [tap + 1 for tap in before] if is_list else before  # refused like those of the top
    found = {
        FIRST + name.removeprefix("midlayer.") if name.startswith("midlayer.") else name: array
        for name, array in arrays.items()
    }
    return _usual(entries, found, source)


def _write_authors(head: HeadCheckpoint[Any], place: Path, _target: HeadTarget) -> None:
    config = head.config
    _refuse(
        "eagle3",
        {
            "takes the residual after the norm, and SGLang and the authors' code take the one before": (
                config.stack.layers[0].residual_is_normed
            ),
            f"has {config.stack.num_layers} layers, and the layout holds 1": config.stack.num_layers > 1,
            **_biases(head),
        },
    )
    document = {"architectures": ["LlamaForCausalLMEagle3"], **_sizes(head)}
    document["target_hidden_size"] = config.stack.hidden_size  # SGLang takes a null for a size
    document |= {name: getattr(config, name) for name in SWITCHES[1:]} | {SWITCHES[0]: False}
    document["num_aux_hidden_states"] = config.num_taps
    if config.taps is not None:
        before = {"use_aux_hidden_state": True, TAPS: [tap - 1 for tap in config.taps]}
        document |= {TAPS: list(config.taps), "eagle_config": before}
    arrays, document["draft_vocab_size"] = _with_vocabulary(head)
    if config.own_rows is None:
        document["draft_vocab_size"] = None  # the target's LM head
    _write_folder(place, document, arrays, first="midlayer.")


# ---- speculators ----


def _knows_speculators(document: Mapping[str, Any], _names: Collection[str]) -> bool:
    return document.get("speculators_model_type") == "eagle3"


def _read_speculators(document: Mapping[str, Any], arrays: Arrays, source: Path) -> tuple[Entries, Arrays]:
    place, layers = f"{source.parent}/config.json", document.get("transformer_layer_config")
    if not isinstance(layers, dict):
        raise CheckpointError(f"{place} lacks transformer_layer_config, the sizes of the head's layer.")
    if document.get("norm_before_residual") is None:
        raise CheckpointError(
            f"{place} lacks norm_before_residual, for which vLLM takes true and the speculators library "
            "false; write the value that the head was trained with."
        )
    if document.get("embed_requires_grad"):
        raise CheckpointError(
            f"{place} has embed_requires_grad true, but a head with an embedding of its own is not "
            "supported; use another head."
        )
    own = (*SWITCHES, TAPS, "draft_vocab_size", "target_hidden_size", "target_fingerprint")
    return _usual({**layers, **{name: document[name] for name in own if name in document}}, arrays, source)


def _write_speculators(head: HeadCheckpoint[Any], place: Path, target: HeadTarget) -> None:
    config = head.config
    _refuse("speculators", _biases(head))
    arrays, draft_vocab = _with_vocabulary(head)
    verifier = {"name_or_path": target.name, "architectures": _architectures(target.path)}
    proposal = {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1}
    document = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.5.0",
        "draft_vocab_size": draft_vocab,
        "norm_before_residual": config.stack.layers[0].residual_is_normed,
        **{name: getattr(config, name) for name in SWITCHES[1:]},
        "target_hidden_size": None,
        "embed_requires_grad": False,
        **({} if config.taps is None else {TAPS: list(config.taps)}),
        "transformer_layer_config": _sizes(head),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{**proposal, "accept_tolerance": 0.0}],
            "verifier": verifier,
        },
        "torch_dtype": "bfloat16",
    }
    _write_folder(place, document, arrays, first=FIRST)


def _architectures(model: Path | None) -> list[str]:
    """Of a target in a folder."""
    if model is None or is_gguf(model):
        return []
    return list(read_json(model / "config.json", CheckpointError).get("architectures") or ())


# ---- GGUF ----

# Tensors of a file, in our names; the first layer's are those of a Llama, and these.
_OUTER = {
    "fc.weight": "fc.weight",
    "enc.output_norm.weight": "input_norm.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
    "blk.0.attn_norm_2.weight": f"{FIRST}hidden_norm.weight",
}


def _gguf_names() -> dict[str, str]:
    """Every tensor of a file but `d2t`, by our name."""
    parts = {place: part for part, place in GGUF.parts.items() if isinstance(place, str)}
    layer = {f"blk.0.{place}.weight": f"{FIRST}{DRAFT.parts[part]}.weight" for place, part in parts.items()}
    return layer | _OUTER


def read_gguf(file: Path) -> tuple[Entries, Arrays]:
    """Entries of config.json and arrays of a head in a GGUF file, as eyas has them.

    Raises:
        CheckpointError: no EAGLE-3 head, or one with tensors or metadata that eyas does not know.
        ModelError: no whole GGUF file.
    """
    source = open_gguf(file)
    if source.architecture != GGUF_ARCHITECTURE:
        raise CheckpointError(
            f"{file} has the architecture {source.architecture!r}, but a head's is {GGUF_ARCHITECTURE!r}; "
            "name the file of a head."
        )
    metadata = GGUFMetadata(source)
    try:
        entries = {"head_kind": "eagle3", **usual_config(metadata)}
        entries["vocab_size"] = metadata.size("vocab_size", len(source.fields.get(_TOKENS, ())))
        entries[TAPS] = metadata.get("target_layers")
        entries |= {name: bool(metadata.get(name, False)) for name in SWITCHES[:2]}
        entries["target_hidden_size"] = metadata.size("target_hidden_size", entries["hidden_size"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{file} lacks a usable {error}.") from error
    except Unsupported as reason:
        raise CheckpointError(f"{file} cannot be used: {reason}.") from reason
    arrays = _gguf_arrays(source, entries)
    if "d2t" in arrays:
        entries["draft_vocab_size"] = len(arrays["d2t"])
    return _usual(entries, arrays, file)


def _gguf_arrays(source: GGUFSource, entries: Mapping[str, Any]) -> Arrays:
    names, arrays = _gguf_names(), Arrays()
    heads = {"q_proj": entries["num_attention_heads"], "k_proj": entries["num_key_value_heads"]}
    for place in sorted(source.names()):
        if place in ("rope_freqs.weight", "token_embd.weight"):
            continue  # read with the metadata, and the target's is used
        if place == "d2t":
            arrays["d2t"] = offsets_of(source.integers(place))
            continue
        name = names.get(place, place)
        array = to_float32(source.raw(place))
        part = name.split(".")[-2]
        arrays[name] = _halves(array, heads[part]) if part in heads else array
    return arrays


def _write_gguf(head: HeadCheckpoint[Any], place: Path, target: HeadTarget) -> None:
    config = head.config
    layer = config.stack.layers[0]
    _refuse(
        "gguf",
        {
            f"has {config.stack.num_layers} layers, and llama.cpp runs 1": config.stack.num_layers > 1,
            f"reads {config.num_taps} hidden states, and llama.cpp gives it 3": config.num_taps != 3,
            "norms each hidden state (fc_norm), which llama.cpp does not": config.fc_norm,
            "norms what it reads of itself (norm_output), which llama.cpp does not": config.norm_output,
            "has a rotary embedding with a factor (YaRN)": layer.attention.rope.factor != 1.0,
            **_biases(head),
        },
    )
    tokenizer, layers, tokens = _target_of(target)
    hidden, attention = config.stack.hidden_size, layer.attention
    taps = authors_taps(layers) if config.taps is None else config.taps
    own = {
        "block_count": 1,
        "context_length": int(head.document.get("max_position_embeddings", 2048)),
        "vocab_size": tokens,
        "embedding_length": hidden,
        "feed_forward_length": config.stack.mlp_size,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": layer.norms.eps,
        "rope.freq_base": attention.rope.theta,
        "rope.dimension_count": attention.head_dim,
        "target_layers": list(taps),
        "target_hidden_size": hidden,
        "norm_before_residual": layer.residual_is_normed,
        "norm_before_fc": config.norm_before_fc,
    }
    fields = {"general.architecture": GGUF_ARCHITECTURE, "general.name": "EAGLE-3 head"}
    fields |= {f"{GGUF_ARCHITECTURE}.{key}": value for key, value in own.items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(place, fields | tokenizer, _gguf_tensors(head))


def _target_of(target: HeadTarget) -> tuple[Entries, int, int]:
    """Metadata of the target's tokenizer, the target's layers and its vocabulary."""
    if target.path is None or not is_gguf(target.path):
        raise CheckpointError(
            "a head for llama.cpp holds its target's tokenizer; name the target's GGUF file with --model."
        )
    source = open_gguf(target.path)
    tokenizer = {key: value for key, value in source.fields.items() if key.startswith("tokenizer.")}
    layers = source.fields.get(f"{source.architecture}.block_count")
    if _TOKENS not in tokenizer or type(layers) is not int:
        raise CheckpointError(f"{target.path} lacks {_TOKENS} or its number of layers; fetch it again.")
    return tokenizer, layers, len(tokenizer[_TOKENS])


def _gguf_tensors(head: HeadCheckpoint[Any]) -> dict[str, NDArray[Any]]:
    attention = head.config.stack.layers[0].attention
    heads = {"q_proj": attention.heads, "k_proj": attention.kv_heads}
    tensors: dict[str, NDArray[Any]] = {}
    for place, name in _gguf_names().items():
        if name not in head.weights:
            continue
        array, part = head.weights[name], name.split(".")[-2]
        array = _pairs(array, heads[part]) if part in heads else array
        tensors[place] = array.astype(BFLOAT16 if array.ndim == 2 else "<f4")
    if head.draft_ids is not None and head.config.own_rows is not None:
        tensors["d2t"] = head.draft_ids.astype("<i8")
    rope = attention.rope
    if not rope.is_plain:
        plain = Rope.plain(rope.theta, rope.dim).inverse_frequencies
        tensors["rope_freqs.weight"] = (np.array(plain) / rope.inverse_frequencies).astype("<f4")
    return tensors


def _pairs(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head from first halves before second halves to llama.cpp's pairs."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _halves(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """The other way round."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


# ---- what they share ----


def _usual(entries: Entries, arrays: Arrays, source: Path) -> tuple[Entries, Arrays]:
    """Checks what every layout may say: another hidden size of the target, and the draft vocabulary."""
    hidden, target = entries.get("hidden_size"), entries.get("target_hidden_size")
    if target not in (None, hidden):
        raise CheckpointError(
            f"{source} is for a target of hidden size {target} and has {hidden} itself; eyas needs the same."
        )
    offsets, in_draft = arrays.get("d2t"), arrays.pop("t2d", None)
    if offsets is None and entries.get("draft_vocab_size") in (None, entries.get("vocab_size")):
        entries.pop("draft_vocab_size", None)
    elif offsets is not None and in_draft is not None:
        ids = offsets + np.arange(len(offsets))
        if not np.array_equal(np.flatnonzero(in_draft), ids):
            raise CheckpointError(
                f"{source}: d2t and t2d differ in the draft vocabulary; the file is broken."
            )
    return entries, arrays


def _refuse(layout: str, reasons: Mapping[str, bool]) -> None:
    """Raise CheckpointError with the first reason that holds."""
    for reason, holds in reasons.items():
        if holds:
            raise CheckpointError(
                f"the layout {layout} cannot hold this head: it {reason}; use another layout."
            )


def _biases(head: HeadCheckpoint[Any]) -> dict[str, bool]:
    names = [name for name in head.weights if name.endswith(".bias")]
    return {f"has {', '.join(names[:1])}, which its readers leave out or refuse": bool(names)}


def _sizes(head: HeadCheckpoint[Any]) -> Entries:
    """The entries of config.json that describe the decoder layer, as a Llama's config has them."""
    document, rope = head.document, head.document.get("rope_parameters")
    sizes = stack_document(head.config.stack)
    sizes["rope_scaling"] = document.get("rope_scaling")
    if rope and rope.get("rope_type", "default") != "default":
        sizes["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {
        "model_type": "llama",
        **sizes,
        "head_dim": head.config.stack.layers[0].attention.head_dim,
        "vocab_size": _vocab_size(head),
        "max_position_embeddings": document.get("max_position_embeddings", 2048),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _vocab_size(head: HeadCheckpoint[Any]) -> int:
    """The target's."""
    size = head.document.get("vocab_size")
    if type(size) is not int or size < 1:
        raise CheckpointError(
            f"config.json of the head has vocab_size {size!r}; write the target's number of tokens there."
        )
    return size


def _with_vocabulary(head: HeadCheckpoint[Any]) -> tuple[Arrays, int]:
    """The weights with d2t and t2d, and the rows of the LM head.

    Of the target's LM head all rows are used: the draft vocabulary only selects some of them.
    """
    size = _vocab_size(head)
    if head.draft_ids is None or head.config.own_rows is None:
        return dict(head.weights), size
    in_draft = np.zeros(size, dtype=np.bool_)
    in_draft[head.draft_ids] = True
    return {**head.weights, "d2t": offsets_of(head.draft_ids), "t2d": in_draft}, len(head.draft_ids)


def _write_folder(place: Path, document: Entries, arrays: Arrays, first: str) -> None:
    place.mkdir(parents=True)
    named = {
        first + name.removeprefix(FIRST) if name.startswith(FIRST) else name: array
        for name, array in arrays.items()
    }
    write_arrays(place / "model.safetensors", named)
    write_config(place, document)


LAYOUTS = (
    HeadLayout(
        name="eagle3",
        readers="the authors' code, vLLM, SGLang, llama.cpp's converter",
        knows=_knows_authors,
        read=_read_authors,
        write=_write_authors,
    ),
    HeadLayout(
        name="speculators",
        readers="vLLM",
        knows=_knows_speculators,
        read=_read_speculators,
        write=_write_speculators,
    ),
    HeadLayout(name="gguf", readers="llama.cpp", write=_write_gguf, suffix=".gguf"),
)
