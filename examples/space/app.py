"""A chat page in a few lines, for hosts of demos: it streams answers and counts the passes of the model.

`pip install ".[demo]"`, then `python examples/space/app.py`. The environment variable EYAS_MODEL names another model.
"""

import os
from collections.abc import Iterator

import gradio as gr

import eyas

llm = eyas.load(os.environ.get("EYAS_MODEL"))


def answer(message: str, history: list[dict[str, str]], temperature: float, seed: float) -> Iterator[str]:
    """Yield the answer as it grows, then show how many passes of the model it took."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in history]
    messages = [*turns, {"role": "user", "content": message}]
    stream = llm.stream(messages, temperature=temperature, seed=int(seed), max_new_tokens=256)
    text = ""
    for piece in stream:
        text += str(piece)
        yield text
    stats = stream.answer.stats
    gr.Info(f"{stats.new_tokens} tokens from {stats.target_forwards} passes of the model.")


demo = gr.ChatInterface(
    answer,
    title="eyas",
    description="EAGLE-2 draft trees: the same tokens as plain decoding, from fewer passes of the model.",
    additional_inputs=[
        gr.Slider(0, 2, value=0, step=0.1, label="Temperature"),
        gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed"),
    ],
)

if __name__ == "__main__":
    demo.launch()
