"""The tokenizers of published text encoders, from whichever files the folder has."""

from pathlib import Path
from typing import Any

from tfrec.encoders.checkpoints.source import Checkpoint, CheckpointError
from tfrec.encoders.clip_tokenizer import ClipTokenizer
from tfrec.encoders.wordpiece import WordPiece, read_vocabulary

WORDPIECE_CLASSES = (  # of a tokenizer_config.json; their texts are cleaned and split as BERT's
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "MPNetTokenizer",
    "RetriBertTokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
)
FILE_CLASSES = WORDPIECE_CLASSES[-2:]  # that say nothing: tokenizer.json does
CASING = {  # names in tokenizer_config.json -> in tokenizer.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def load_wordpiece(checkpoint: Checkpoint, sequence_length: int) -> WordPiece:
    """Return the WordPiece tokenizer of `vocab.txt` or `tokenizer.json`, with the casing that the files say.

    Raises:
        CheckpointError: The folder has neither, or its tokenizer is of another kind.
    """
    fast = checkpoint.json("tokenizer.json")
    _check_kind(checkpoint, fast)
    path = checkpoint.folder / "vocab.txt"
    if path.is_file():
        vocabulary = read_vocabulary(path)
    elif fast.get("model", {}).get("type") == "WordPiece":
        ids: dict[str, int] = fast["model"]["vocab"]
        vocabulary = sorted(ids, key=ids.__getitem__)
    else:
        raise CheckpointError(
            f"{checkpoint.source}: no vocab.txt and no WordPiece tokenizer.json. Encoders with another "
            "tokenizer (SentencePiece: XLM-R, multilingual MiniLM-L12, e5-multilingual) are not supported."
        )
    return WordPiece(vocabulary, sequence_length=sequence_length, **_casing(checkpoint, fast))


def _check_kind(checkpoint: Checkpoint, fast: dict[str, Any]) -> None:
    """Refuse a tokenizer that makes other ids of a text than BERT's of the same vocabulary would.

    Raises:
        CheckpointError: The files name another class, or other steps.
    """
    settings = checkpoint.json("tokenizer_config.json")
    named = {"tokenizer_class": str(settings.get("tokenizer_class") or "BertTokenizer").removesuffix("Fast")}
    named["word_tokenizer_type"] = settings.get("word_tokenizer_type") or "basic"
    named["normalizer"] = (fast.get("normalizer") or {}).get("type", "BertNormalizer")
    named["pre_tokenizer"] = (fast.get("pre_tokenizer") or {}).get("type", "BertPreTokenizer")
    named["continuing_subword_prefix"] = fast.get("model", {}).get("continuing_subword_prefix", "##")
    known = {
        "tokenizer_class": WORDPIECE_CLASSES,
        "word_tokenizer_type": ("basic",),
        "normalizer": ("BertNormalizer",),
        "pre_tokenizer": ("BertPreTokenizer",),
        "continuing_subword_prefix": ("##",),
    }
    for name, value in named.items():
        if value not in known[name]:
            raise CheckpointError(
                f"{checkpoint.source}: its tokenizer has {name} {value!r}; only BERT's WordPiece is supported "
                f"({name} {' or '.join(map(repr, known[name][:1]))})"
            )


def _casing(checkpoint: Checkpoint, fast: dict[str, Any]) -> dict[str, Any]:
    """Return how texts are cleaned.

    A BERT tokenizer of the reference is made of tokenizer_config.json's options whatever tokenizer.json says; where it says
    nothing of one, or names a class that reads tokenizer.json alone, that counts.
    """
    settings = dict(checkpoint.json("tokenizer_config.json"))
    normalizer = fast.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        said = {name: normalizer[key] for name, key in CASING.items()}
        reads_file = str(settings.get("tokenizer_class")).removesuffix("Fast") in FILE_CLASSES
        settings = settings | said if reads_file else said | settings
    lowercase, strip = settings.get("do_lower_case", True), settings.get("strip_accents")
    split = settings.get("tokenize_chinese_chars", True)
    # sentence-transformers may lower the case before the tokenizer does.
    if checkpoint.json("sentence_bert_config.json").get("do_lower_case"):
        lowercase = True
    return {"lowercase": lowercase, "strip_accents": strip, "split_cjk": split}


def load_clip_tokenizer(checkpoint: Checkpoint, sequence_length: int) -> ClipTokenizer:
    """Return CLIP's tokenizer of `vocab.json` and `merges.txt`, or of `tokenizer.json`.

    Raises:
        CheckpointError: The folder has neither.
    """
    vocabulary, merges = checkpoint.json("vocab.json"), _read_merges(checkpoint.folder / "merges.txt")
    if not vocabulary or not merges:
        model = checkpoint.json("tokenizer.json").get("model", {})
        vocabulary = model.get("vocab", {})
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    if not vocabulary:
        raise CheckpointError(
            f"{checkpoint.source}: no vocab.json with merges.txt, and no tokenizer.json; CLIP's text tower "
            "needs one of them."
        )
    return ClipTokenizer(vocabulary, merges, sequence_length=sequence_length)


def _read_merges(path: Path) -> list[str]:
    """Return the rules of a `merges.txt` without its version line; none if there is no such file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#version")]
