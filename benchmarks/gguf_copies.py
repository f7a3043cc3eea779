"""Copies of a GGUF file in other block formats, by llama.cpp's own quantiser; for figures of passes only.

    other/bin/python benchmarks/gguf_copies.py model.gguf Q8_0 IQ4_XS --to folder    # a Python with llama-cpp-python

Weights that are quantised already are quantised again, so the copies answer worse than a file made from the model.
"""

import argparse
from pathlib import Path

import llama_cpp


def main() -> None:
    """Make the copies that are missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("formats", nargs="+", help="as llama.cpp calls file types: Q8_0, Q5_K_M, IQ4_XS, ..")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    for name in args.formats:
        out = args.to / f"{args.file.stem}-as-{name.lower()}.gguf"
        if not out.exists():
            quantise(args.file, out, name, args.threads)


def quantise(file: Path, out: Path, name: str, threads: int) -> None:
    """One copy; it appears under its name when it is complete."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    options.allow_requantize = True
    options.nthread = threads
    unfinished = out.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(file).encode(), str(unfinished).encode(), options):
        raise SystemExit(f"{file} cannot be quantised as {name}")
    unfinished.rename(out)


if __name__ == "__main__":
    main()
