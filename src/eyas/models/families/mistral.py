"""Mistral 7B (arXiv 2310.06825): Llama with a sliding window. Its GGUF files call themselves "llama"."""

from eyas.models.families import register_family
from eyas.models.families.common import Config, decoder
from eyas.models.spec import ModelSpec


@register_family("mistral")
def spec(config: Config) -> ModelSpec:
    """A window in every layer, unless the config lists the layers' types."""
    return decoder(config, windows=config.windows(), bias=config.flag("attention_bias"))
