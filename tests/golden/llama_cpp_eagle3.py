"""Asks llama.cpp what an exported EAGLE-3 head drafts, and keeps it in a golden file beside this script.

    PYTHONPATH=src:tests:tests/drafters python tests/golden/llama_cpp_eagle3.py write FOLDER
    llama/bin/python tests/golden/llama_cpp_eagle3.py draft FOLDER

The second Python has llama-cpp-python==0.3.36. That library has the networks of EAGLE-3; llama.cpp's drafting
loop is part of its programs, so this script drives the library: the target's pass, the encoder (fc) over the
three hidden states, the decoder for a chain of greedy tokens. What it drafts is compared in
tests/drafters/test_eagle3_in_llama_cpp.py.
"""

import ctypes
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("eagle3_llama_cpp.json")


def main():
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "write":
        from llama_cpp_case import DEPTH, PROMPTS, TAPS, write_case

        folder.mkdir(parents=True, exist_ok=True)
        write_case(folder)
        (folder / "case.json").write_text(json.dumps({"taps": TAPS, "depth": DEPTH, "prompts": PROMPTS}))
        return
    case = json.loads((folder / "case.json").read_text())
    llama = LlamaCpp(folder, case["taps"])
    chains = [llama.draft(prompt, case["depth"]) for prompt in case["prompts"]]
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("target.gguf", "head.gguf")
    }
    GOLDEN.write_text(json.dumps({"files": digests, "chains": chains}, indent=1) + "\n")
    print(f"{len(chains)} chains in {GOLDEN}")


class LlamaCpp:
    """A target and a head in llama.cpp's library."""

    def __init__(self, folder, taps):
        import llama_cpp as lib
        from llama_cpp import llama_cpp as bound

        self.lib, self.taps = lib, taps
        lib.llama_backend_init()
        self.target = self._context(folder / "target.gguf", None)
        self.hidden = lib.llama_model_n_embd(lib.llama_get_model(self.target))
        # Not in llama.h: C++ names of what llama.cpp's own programs call.
        self._set_tap = bound._lib._Z30llama_set_embeddings_layer_inpP13llama_contextjb
        self._set_tap.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool]
        self._tap = bound._lib._Z30llama_get_embeddings_layer_inpP13llama_contextj
        self._tap.argtypes, self._tap.restype = (
            [ctypes.c_void_p, ctypes.c_uint32],
            ctypes.POINTER(ctypes.c_float),
        )
        self._set_next = bound._lib._Z26llama_set_embeddings_nextnP13llama_contextbb
        self._set_next.argtypes = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool]
        self._all_next = bound._lib._Z26llama_get_embeddings_nextnP13llama_context
        self._all_next.argtypes, self._all_next.restype = [ctypes.c_void_p], ctypes.POINTER(ctypes.c_float)
        self._next = bound._lib._Z30llama_get_embeddings_nextn_ithP13llama_contexti
        self._next.argtypes, self._next.restype = (
            [ctypes.c_void_p, ctypes.c_int32],
            ctypes.POINTER(ctypes.c_float),
        )
        for tap in set(taps):
            self._set_tap(self.target, tap, True)
        self.head = self._context(folder / "head.gguf", self.target)

    def _context(self, path, other):
        lib = self.lib
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert model, path
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 128
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # float32
        params.flash_attn_type = 0
        params.ctx_other = other
        context = lib.llama_init_from_model(model, params)
        assert context, path
        return context

    def _rows(self, pointer, count, width):
        return np.ctypeslib.as_array(pointer, (count, width)).copy()

    def draft(self, prompt, depth):
        """The target's next token, and the chain of greedy drafts behind it, with their logits' lead."""
        lib, count = self.lib, len(prompt)
        for context in (self.target, self.head):
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(count, 0, 1)
        self._fill(batch, count, tokens=prompt)
        assert lib.llama_decode(self.target, batch) == 0
        vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(lib.llama_get_model(self.target)))
        root = int(self._rows(lib.llama_get_logits_ith(self.target, count - 1), 1, vocabulary)[0].argmax())
        taps = [self._rows(self._tap(self.target, tap), count, self.hidden) for tap in self.taps]
        states = self._encode(np.concatenate(taps, axis=1))
        chain, leads, tokens, position = [root], [], [*prompt[1:], root], 0
        for _ in range(depth):
            logits, state = self._decode(tokens, states, position, vocabulary)
            best = np.sort(logits[np.isfinite(logits)])[-2:]
            leads.append(float(best[1] - best[0]))
            chain.append(int(logits.argmax()))
            position += len(tokens)
            tokens, states = chain[-1:], state[None]
        return {"chain": chain, "leads": leads}

    def _fill(self, batch, count, tokens=None):
        batch.n_tokens = count
        for row in range(count):
            if tokens is not None:
                batch.token[row] = tokens[row]
            batch.pos[row], batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = row, 1, 0, 1

    def _encode(self, rows):
        lib, count = self.lib, len(rows)
        batch = lib.llama_batch_init(count, rows.shape[1], 1)
        self._fill(batch, count)
        data = np.ascontiguousarray(rows, dtype=np.float32)
        ctypes.memmove(batch.embd, data.ctypes.data, data.nbytes)
        self._set_next(self.head, True, False)
        assert lib.llama_encode(self.head, batch) == 0
        return self._rows(self._all_next(self.head), count, self.hidden)

    def _decode(self, tokens, states, position, vocabulary):
        lib = self.lib
        self._set_next(self.head, True, False)
        batch = lib.llama_batch_ext_init(self.head)
        kept = np.ascontiguousarray(states, dtype=np.float32)
        for row, token in enumerate(tokens):
            assert lib.llama_batch_ext_add_token(batch, 0, token) == row
            data = kept[row].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            assert lib.llama_batch_ext_set_embd_token(batch, row, lib.llama_embd(data, 1, self.hidden))
            at = ctypes.c_int32(position + row)
            assert lib.llama_batch_ext_set_pos(batch, row, ctypes.byref(at))
            lib.llama_batch_ext_set_output_logits(batch, row, True)
        assert lib.llama_process(self.head, 1, batch) == 0
        last = len(tokens) - 1
        logits = self._rows(lib.llama_get_logits_ith(self.head, last), 1, vocabulary)[0]
        state = self._rows(self._next(self.head, last), 1, self.hidden)[0]
        lib.llama_batch_ext_free(batch)
        return logits, state


if __name__ == "__main__":
    main()
