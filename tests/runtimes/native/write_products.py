"""Products of block formats by their definition, for a program without NumPy: python write_products.py FILE.

Of each format a line `NAME rows k tokens`, then the rows' blocks, x (tokens, k) and y (tokens, rows).
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from reference.blocks import LAYOUTS, decode, product, random_blocks

ROWS, K, TOKENS = 45, 512, 15


def main(path: str) -> None:
    """Write the file."""
    generator = np.random.default_rng(2)
    with Path(path).open("wb") as file:
        for name in LAYOUTS:
            raw = random_blocks(name, ROWS, K, generator)
            x = generator.normal(0, 1, (TOKENS, K)).astype("<f4")
            x[3] = 0
            x[4, 32:64] *= 1e4  # an outlier
            x[5] = 1  # the largest integers everywhere, and in Q8_0 such weights
            if name == "Q8_0":
                raw[0].reshape(-1, 34)[:, 2:] = 0x80
            file.write(f"{name} {ROWS} {K} {TOKENS}\n".encode())
            for array in (raw, x, product(decode(name, raw), x)):
                file.write(np.ascontiguousarray(array).tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
