"""Makes a random model say a given text: its ids are its own, but they are decoded as the text."""

import contextlib

END = "\u00a7"  # the stop string that ends a script; no script has it otherwise
TOOLS_TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %} <tool_call> </tool_call>"
    "{% endif %}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{# answers may hold <think> and </think> #}"
)
SIGNS = 7  # of the script, for each token


class Script:
    """A decoder that gives a text in parts, whatever the tokens."""

    def __init__(self, text):
        self._rest = text + END

    def push(self, token_id):
        part, self._rest = self._rest[:SIGNS], self._rest[SIGNS:]
        return part

    def flush(self):
        return ""


@contextlib.contextmanager
def saying(llm, text, monkeypatch):
    """All answers are this text, if they are long enough and END is a stop string."""
    with monkeypatch.context() as patch:
        patch.setattr(llm.tokenizer, "stream_decoder", lambda shown=(): Script(text))
        yield
