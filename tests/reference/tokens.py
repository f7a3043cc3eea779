"""Tokenizers from their definitions, slowly: what splits, merges and scores mean."""

import itertools
import unicodedata

import regex

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def alphabet():
    """GPT-2's sign for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        signs.setdefault(byte, chr(256 + len(signs) - len(printable)))
    return signs


SIGNS = alphabet()


def in_signs(text):
    """A text's bytes as signs."""
    return "".join(SIGNS[byte] for byte in text.encode())


def _runs(text, key):
    """Longest pieces whose characters have the same key."""
    pieces = []
    for sign in text:
        if pieces and key(pieces[-1][-1]) == key(sign):
            pieces[-1] += sign
        else:
            pieces.append(sign)
    return pieces


def _isolated(pattern, text):
    pieces, end = [], 0
    for match in regex.finditer(pattern, text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


def _is_number(sign):
    return unicodedata.category(sign)[0] == "N"


def _is_punctuation(sign):
    return unicodedata.category(sign)[0] == "P" or (
        sign.isascii() and sign.isprintable() and not sign.isalnum() and sign != " "
    )


def _step(name, options, text):
    if name == "Split":
        return _isolated(options["pattern"], text)
    if name == "Digits" and options["individual_digits"]:
        return [part for run in _runs(text, _is_number) for part in (run if _is_number(run[0]) else [run])]
    if name == "Digits":
        return _runs(text, _is_number)
    if name == "Punctuation":
        return _runs(text, _is_punctuation)
    words = _isolated(_GPT2, text) if options["use_regex"] else [text]
    return [in_signs(word) for word in words]


def split(steps, text):
    """The words of a text, in signs of bytes."""
    pieces = [text] if text else []
    for name, options in steps:
        pieces = [part for piece in pieces for part in _step(name, options, piece)]
    return pieces


def merge(parts, rank):
    """BPE: merge the neighbours of the lowest rank, the leftmost first, while any have one."""
    parts = list(parts)
    while True:
        ranked = [
            (rank(left, right), at)
            for at, (left, right) in enumerate(itertools.pairwise(parts))
            if rank(left, right) is not None
        ]
        if not ranked:
            return parts
        at = min(ranked)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def byte_level_ids(text, rule, vocabulary, merges):
    """Byte-level BPE of a text without added tokens."""
    ranks = {pair: number for number, pair in enumerate(merges)}
    ids = []
    for word in split(rule.steps, unicodedata.normalize("NFC", text) if rule.nfc else text):
        if rule.ignore_merges and word in vocabulary:
            ids.append(vocabulary[word])
        else:
            ids += [vocabulary[part] for part in merge(word, lambda *pair: ranks.get(pair))]
    return ids


def sentence_piece_ids(text, vocabulary, scores, *, prefix=True):
    """SentencePiece's BPE: the neighbours whose joint piece has the best score, the leftmost first."""
    text = ("\u2581" if prefix and text else "") + text.replace(" ", "\u2581")
    parts = merge(text, lambda left, right: -scores[left + right] if left + right in scores else None)
    return [
        token
        for part in parts
        for token in (
            [vocabulary[part]]
            if part in vocabulary
            else [vocabulary[f"<0x{byte:02X}>"] for byte in part.encode()]
        )
    ]


def unigram_ids(text, vocabulary, scores, *, prefix=True):
    """SentencePiece's unigram model: the pieces with the best sum of scores, by trying every cut."""
    text = ("\u2581" if prefix and text else "") + text.replace(" ", "\u2581")
    best = [(0.0, ())]
    for end in range(1, len(text) + 1):
        best.append(
            max(
                (best[start][0] + scores[text[start:end]], (*best[start][1], text[start:end]))
                for start in range(end)
                if text[start:end] in scores and best[start] is not None
            )
        )
    return [vocabulary[piece] for piece in best[-1][1]]


def learn_merges(texts, count, spelled=in_signs):
    """Merges of the most frequent neighbours, across any word boundary, so that every split shows in ids."""
    words = [list(spelled(text)) for text in texts]
    merges = []
    while len(merges) < count:
        counts = {}
        for word in words:
            for pair in itertools.pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if counts[best] < 2:
            break
        merges.append(best)
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return merges
