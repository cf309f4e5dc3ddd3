"""Published weights give the reference's outputs; its tokenizers give the same ids."""

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tfrec  # noqa: F401, E402  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.parity import REAL_CASES, SMALL_CASES, TOLERANCE  # noqa: E402
from tests.tokenizer_texts import catalogue, hostile_texts, small_merges, small_vocabulary  # noqa: E402
from tfrec.encoders.checkpoints import load_text_encoder  # noqa: E402
from tfrec.encoders.clip_tokenizer import ClipTokenizer  # noqa: E402
from tfrec.encoders.wordpiece import WordPiece  # noqa: E402

REAL_SIZES = os.environ.get("TFREC_REAL_SIZES")


@pytest.mark.parametrize("case", SMALL_CASES)
def test_a_small_random_model_gives_the_references_outputs(case):
    result = SMALL_CASES[case]()
    assert all(scale > 0.1 for scale in result.scales.values()), "the outputs say nothing"
    assert max(result.errors.values()) < TOLERANCE, result


@pytest.mark.slow
@pytest.mark.parametrize("case", REAL_CASES)
def test_a_random_model_of_the_published_size_gives_the_references_outputs(case):
    if not REAL_SIZES:
        pytest.skip("takes minutes and gigabytes; set TFREC_REAL_SIZES=1")
    assert max(REAL_CASES[case]().errors.values()) < TOLERANCE


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, None), (False, None), (True, False)])
def test_wordpiece_ids_equal_the_references(tmp_path, lowercase, strip_accents):
    texts = [*catalogue(10_000), *hostile_texts(3_000)]
    wordpiece = WordPiece(small_vocabulary(), sequence_length=48, lowercase=lowercase, strip_accents=strip_accents)
    wordpiece.save(tmp_path / "vocab.txt")
    reference = transformers.BertTokenizer.from_pretrained(
        tmp_path, do_lower_case=lowercase, strip_accents=strip_accents
    )
    assert_same_ids(wordpiece, reference, texts)


@pytest.mark.long
def test_clip_ids_equal_the_references():
    vocabulary, merges = small_merges()
    reference = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges])
    tokenizer = ClipTokenizer(vocabulary, merges, sequence_length=48)
    assert_same_ids(tokenizer, reference, [*catalogue(10_000), *hostile_texts(2_000)])


@pytest.mark.real_data
def test_wordpiece_ids_of_real_descriptions_equal_the_references(real_data):
    import pandas as pd

    articles = pd.read_csv(real_data("hm/week/articles.csv"), dtype=str)
    texts = articles["detail_desc"].fillna("").tolist()
    assert len(texts) > 10_000
    folder = minilm()
    _, tokenizer, _ = load_text_encoder(folder, sequence_length=128)
    assert_same_ids(tokenizer, transformers.AutoTokenizer.from_pretrained(folder), texts)


def test_minilm_gives_the_references_sentence_vectors_and_finds_the_red_summer_dress():
    folder = minilm()
    texts = ["red summer dress", "Light red dress for hot days", "Black leather boots", "Wool winter coat, grey", ""]
    encoder, tokenizer, pooling = load_text_encoder(folder)
    ids = tokenizer(texts)
    vectors = pooling(encoder(ids), encoder.mask(ids)).numpy()
    np.testing.assert_allclose(vectors, reference_sentences(folder, texts), atol=TOLERANCE)
    assert (vectors[0] @ vectors[1:4].T).argmax() == 0


def minilm():
    """Return the folder of MiniLM's real weights, or skip."""
    folder = os.environ.get("TFREC_MINILM")
    if not folder or not (Path(folder) / "model.safetensors").is_file():
        pytest.skip("needs the weights of sentence-transformers/all-MiniLM-L6-v2 (folder TFREC_MINILM)")
    return folder


def reference_sentences(folder, texts):
    """Return the sentence vectors as sentence-transformers computes them: mean of the tokens, normalised."""
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()


def assert_same_ids(tokenizer, reference, texts):
    """Assert that both tokenizers give the same ids, and show the first text in which they do not."""
    length = tokenizer.sequence_length
    expected = reference(texts, padding="max_length", truncation=True, max_length=length)["input_ids"]
    for text, ours, theirs in zip(texts, tokenizer(texts).numpy().tolist(), expected):
        assert ours == theirs, repr(text)
