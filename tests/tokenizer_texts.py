"""Texts and vocabularies to compare tokenizers on: a catalogue's sentences, and everything Unicode has to offer."""

import random
from collections import Counter
from functools import cache
from itertools import pairwise

from tfrec.encoders.clip_tokenizer import END, START, WORD_END, byte_symbols
from tfrec.encoders.wordpiece import train_vocabulary

ARTICLES = [
    "Dress",
    "Top",
    "Straight-cut jeans",
    "Blazer",
    "T-shirt",
    "Robe d'été",
    "Überwurf",
    "원피스",
    "连衣裙",
    "ワンピース",
]
FABRICS = ["cotton", "Tencel™ lyocell", "jersey", "wool (30%)", "crêpe", "recycled polyester", "면 100%", "棉"]
DETAILS = [
    "a V-neck and 3/4-length sleeves",
    "narrow, adjustable shoulder straps",
    "lace trims at the front & back",
    "a UPF 50+ coating",
    "a fly with zip/button",
    "side pockets; lined",
    "the men's fit — regular",
    "\u201cpremium\u201d finish…",
    "size ½–2",
]
ODD_WORDS = [
    "a" * 100,
    "a" * 101,
    "é" * 100,
    "ก" * 99,
    "ก" * 101,
    "한국어" * 20,
    "ǅ",
    "İstanbul",
    "ΣΊΣΥΦΟΣ",
    "ﬁt",
    "[mask]",
]
# Blocks in which the reference's older Unicode tables agree with today's.
BLOCKS = [
    (0x01, 0x250), (0x300, 0x370), (0x370, 0x3FF), (0x400, 0x52F), (0x5D0, 0x5EB), (0x620, 0x64A), (0x905, 0x939),
    (0xE01, 0xE5C), (0x1E00, 0x2070), (0x20A0, 0x20BE), (0x2100, 0x2190), (0x2460, 0x2500), (0x2600, 0x27BF),
    (0x3000, 0x30FF), (0x4E00, 0x4F00), (0xAC00, 0xAE00), (0xE000, 0xE010), (0xF900, 0xF920), (0xFB00, 0xFB07),
    (0xFE50, 0xFE6B), (0xFF01, 0xFFEF), (0xFFFD, 0xFFFE), (0x1F300, 0x1F650), (0x20000, 0x20020), (0x2B820, 0x2B840),
]  # fmt: skip


def catalogue(count, seed=0):
    """Return `count` descriptions of articles."""
    rng = random.Random(seed)
    return [
        f"{rng.choice(ARTICLES)} in {rng.choice(['', 'soft ', 'washed ', 'Light-Weight '])}{rng.choice(FABRICS)} with "
        f"{rng.choice(DETAILS)}, {rng.choice(DETAILS)}{rng.choice(['.', '', '!', ' .', '...'])}"
        for _ in range(count)
    ]


def hostile_texts(count, seed=0):
    """Return `count` texts of letters, marks, symbols, controls, spaces and emoji of many scripts, mixed with ASCII."""
    rng = random.Random(seed)
    alphabet = [chr(code) for first, last in BLOCKS for code in range(first, last)]
    texts = [f"{word} {other}" for word in ODD_WORDS for other in ("", "b", word)] + ["", " ", "\t\n", "\u2028"]
    while len(texts) < count:
        share = rng.choice([0.05, 0.4, 0.9])
        length = rng.randint(0, 50)
        texts.append("".join(rng.choice(alphabet if rng.random() < share else ASCII) for _ in range(length)))
    return texts[:count]


ASCII = "abcdefghijklmnopqrstuvwxyz ABCDEF 0123456789 .,!?-_'\"$+^~`|<=>()[]{}/\\@#%&*;:"


@cache
def small_vocabulary():
    """Return a WordPiece vocabulary learnt from a catalogue, plus pieces of other scripts."""
    pieces = [*"é裙한은", "##é", "##ก", "ก", "™", "##™", "ß", "##ß", "½", "σ", "##σ"]
    learnt = train_vocabulary(catalogue(500), 700)
    return [*learnt, *(piece for piece in pieces if piece not in learnt)]


@cache
def small_merges(count=300):
    """Return a byte-pair vocabulary and its merges, learnt from a catalogue in the plainest way."""
    symbols = byte_symbols()
    words = Counter(word for text in catalogue(500) for word in text.lower().split())
    spelled = {}
    for word, times in words.items():
        letters = [symbols[byte] for byte in word.encode()]
        spelled[(*letters[:-1], letters[-1] + WORD_END)] = times
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for letters, times in spelled.items():
            for pair in pairwise(letters):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(" ".join(best))
        spelled = {_merge(letters, best): times for letters, times in spelled.items()}
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    return {token: number for number, token in enumerate([*dict.fromkeys(tokens), START, END])}, merges


def _merge(letters, pair):
    """Join each occurrence of a pair, left to right."""
    joined, place = [], 0
    while place < len(letters):
        if letters[place : place + 2] == pair:
            joined.append("".join(pair))
            place += 2
        else:
            joined.append(letters[place])
            place += 1
    return tuple(joined)
