"""Answers of the target to prompts: what a head learns from.

Prompts are answered in batches of like length with the stock model, each batch at one temperature, so that
all temperatures get their share of tokens. Each batch is appended to the answer file and flushed before the
next one starts: an interruption loses one batch, and the next call goes on with the prompts that have no
answer yet.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.errors import DataError
from eyas.models import Progress, Tokenizer, silent
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import DistilConfig
from eyas.training.data import Prompt, Sample, read_samples


def distil(
    runtime: TorchRuntime,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    out: Path,
    config: DistilConfig,
    progress: Progress = silent,
) -> int:
    """Answer `prompts` into the JSON lines file `out`; returns the number of new answers.

    Raises:
        DataError: `out` holds lines that are no answers.
    """
    done = _finish_last_line(out)
    waiting = [prompt for prompt in prompts if prompt.id not in done]
    if config.limit is not None:
        waiting = waiting[: max(0, config.limit - len(done))]
    count, total = 0, len(waiting)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for number, batch in enumerate(_batches(waiting, tokenizer, config)):
            progress("distilling", count, total)
            rng = np.random.default_rng([config.seed, len(done), number])
            shares = np.array(config.shares) / sum(config.shares)
            temperature = float(rng.choice(config.temperatures, p=shares))
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            ids = [prompt_ids for _, prompt_ids in batch]
            answers = answer_batch(
                runtime, ids, tokenizer.stop_token_ids, temperature, config.max_new_tokens, generator
            )
            for (prompt, prompt_ids), answer in zip(batch, answers, strict=True):
                file.write(_line(prompt, prompt_ids, answer, temperature))
            file.flush()
            os.fsync(file.fileno())
            count += len(batch)
    progress("distilling", total, total)
    return count


@torch.inference_mode()
def answer_batch(
    runtime: TorchRuntime,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """An answer to each prompt, at most `max_new_tokens` long, its stop token included.

    Sampling here only has to follow the distribution; the draws need no law of their own.
    """
    model, device = runtime.model, runtime.device
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded in front: all answers start in one column
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    live = torch.arange(len(prompts))
    answers: list[list[int]] = [[] for _ in prompts]
    stops = torch.tensor(list(stop_token_ids))
    cache: Any = None
    inputs, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        output = model(
            input_ids=inputs.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen = _draw(output.logits[:, -1].float().cpu(), temperature, generator)
        for row, token in zip(live.tolist(), chosen.tolist(), strict=True):
            answers[row].append(token)
        going = ~torch.isin(chosen, stops)
        if not going.any():
            break
        keep = going.nonzero()[:, 0]
        if len(keep) < len(live):  # answers that ended leave the batch
            cache.batch_select_indices(keep.to(device))
        live, mask, chosen = live[keep], mask[keep], chosen[keep]
        positions = positions[keep, -1:] + 1
        inputs, mask = chosen[:, None], torch.cat((mask, torch.ones((len(keep), 1), dtype=mask.dtype)), dim=1)
    return answers


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    probs = (logits / temperature).softmax(dim=-1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def _batches(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, config: DistilConfig
) -> Iterator[list[tuple[Prompt, list[int]]]]:
    """Batches of like length, found within windows so that the order of prompts stays roughly theirs."""
    window = 16 * config.batch_size
    for start in range(0, len(prompts), window):
        rows = []
        for prompt in prompts[start : start + window]:
            ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])
            if len(ids) <= config.max_prompt_tokens:
                rows.append((prompt, ids))
        rows.sort(key=lambda row: len(row[1]))
        for at in range(0, len(rows), config.batch_size):
            yield rows[at : at + config.batch_size]


def _line(prompt: Prompt, prompt_ids: list[int], answer: list[int], temperature: float) -> str:
    row = {
        "id": prompt.id,
        "category": prompt.category,
        "temperature": temperature,
        "prompt_ids": prompt_ids,
        "response_ids": answer,
    }
    return json.dumps(row) + "\n"


def _finish_last_line(out: Path) -> set[str]:
    """Ids answered already. A last line that a kill cut short is dropped."""
    if not out.is_file():
        return set()
    whole = out.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with out.open("r+b") as file:
            file.truncate(end)
    if not end:
        return set()
    try:
        samples: list[Sample] = read_samples([out])
    except DataError as error:
        raise DataError(f"{error} Use another --out to keep that file.") from error
    return {sample.id for sample in samples}
