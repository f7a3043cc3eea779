"""The HTTP server (`eyas serve`): OpenAI's interface over continuous batching."""
