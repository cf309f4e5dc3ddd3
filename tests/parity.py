"""Compare the encoders with the reference implementation (transformers on PyTorch) on the same weights.

    python -m tests.parity --out docs/encoders.md

measures every family at its published size with random weights and rewrites the tables between the marks in the
document; the tests run the same comparisons at small sizes.
"""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import tfrec  # noqa: F401  (pins Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import tensorflow as tf
import torch
import transformers

from tfrec.encoders.checkpoints import load_image_encoder
from tfrec.encoders.checkpoints.bert import load_bert
from tfrec.encoders.checkpoints.clip import CLIP_MEAN, CLIP_STD, load_clip_text
from tfrec.encoders.checkpoints.source import open_checkpoint
from tfrec.encoders.image import HALF, IMAGENET_MEAN, IMAGENET_STD

TOLERANCE = 1e-4
SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}


class Comparison(NamedTuple):
    """Largest absolute difference of each output, and the largest absolute value of the reference's."""

    parameters: int
    errors: dict[str, float]
    scales: dict[str, float]


Outputs = dict[str, tuple[Any, torch.Tensor]]


def compare_bert(**config: Any) -> Comparison:
    """BERT with its pre-training heads, as bert-base-uncased is published; padded texts."""
    model = random_model(transformers.BertForPreTraining, transformers.BertConfig(**config))
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, (2, 12))
    ids[0, 7:] = model.config.pad_token_id

    def outputs(folder: str) -> Outputs:
        mask = ids != model.config.pad_token_id
        encoder = load_bert(open_checkpoint(folder))
        with torch.no_grad():
            states = model.bert(
                torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True
            ).hidden_states
        ours = encoder.layer_tokens(tf.constant(ids, tf.int32))
        return {
            "tokens": (ours[-1].numpy()[mask], states[-1][torch.tensor(mask)]),
            "first block": (ours[1].numpy()[mask], states[1][torch.tensor(mask)]),
        }

    return compare(model, model.bert, outputs)


def compare_vit(size: int | tuple[int, int] | None = None, **config: Any) -> Comparison:
    """ViT with its classifier, as vit-base-patch16-224 is published; `size` interpolates the positions."""
    model = random_model(transformers.ViTForImageClassification, transformers.ViTConfig(**config))

    def outputs(folder: str) -> Outputs:
        encoder = load_image_encoder(folder, size=size)
        photos = random_photos(encoder.size)
        with torch.no_grad():
            pixels = as_pixels(photos, HALF, HALF)
            reference = model.vit(pixels, interpolate_pos_encoding=size is not None).last_hidden_state
        return {"tokens": (encoder(photos), reference)}

    return compare(model, model.vit, outputs)


def compare_dinov2(size: int | tuple[int, int], **config: Any) -> Comparison:
    """DINOv2: layer scale, and positions interpolated to `size`."""
    model = random_model(transformers.Dinov2Model, transformers.Dinov2Config(**config))

    def outputs(folder: str) -> Outputs:
        encoder = load_image_encoder(folder, size=size)
        photos = random_photos(encoder.size)
        with torch.no_grad():
            reference = model(as_pixels(photos, IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state
        return {"tokens": (encoder(photos), reference)}

    return compare(model, model, outputs)


def compare_clip(text: dict[str, Any], vision: dict[str, Any], projection_dim: int = 512) -> Comparison:
    """Both towers of CLIP, with their projections."""
    vocabulary = text.get("vocab_size", 49408)
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    config = transformers.CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=projection_dim)
    model = random_model(transformers.CLIPModel, config)
    ids = np.random.default_rng(0).integers(5, vocabulary - 2, (2, 9))
    ids[:, 0], ids[0, 5:], ids[1, -1] = vocabulary - 2, vocabulary - 1, vocabulary - 1

    def outputs(folder: str) -> Outputs:
        encoder = load_image_encoder(folder)
        text_encoder, pooling = load_clip_text(open_checkpoint(folder), vocabulary - 1)
        photos = random_photos(encoder.size)
        tokens = encoder(photos)
        with torch.no_grad():
            vision_states = model.vision_model(as_pixels(photos, CLIP_MEAN, CLIP_STD))
            text_states = model.text_model(torch.tensor(ids))
            return {
                "photo tokens": (tokens, model.vision_model.post_layernorm(vision_states.last_hidden_state)),
                "photo vector": (encoder.pooled(tokens), model.visual_projection(vision_states.pooler_output)),
                "text vector": (
                    pooling(text_encoder(ids.astype(np.int32)), text_encoder.mask(ids.astype(np.int32))),
                    model.text_projection(text_states.pooler_output),
                ),
            }

    return compare(model, model, outputs)


def compare_resnet(size: int, **config: Any) -> Comparison:
    """ResNet v1.5 with its classifier, as microsoft/resnet-50 is published."""
    model = random_model(transformers.ResNetForImageClassification, transformers.ResNetConfig(**config))
    calm_branches(model)
    settle_batch_norms(model, size)

    def outputs(folder: str) -> Outputs:
        encoder = load_image_encoder(folder, size=size)
        photos = random_photos(encoder.size)
        with torch.no_grad():
            states = model.resnet(as_pixels(photos, IMAGENET_MEAN, IMAGENET_STD))
        tokens = encoder(photos)
        return {
            "cells": (tokens[:, 1:], states.last_hidden_state.flatten(2).transpose(1, 2)),
            "photo vector": (encoder.pooled(tokens), states.pooler_output.flatten(1)),
        }

    return compare(model, model.resnet, outputs)


def random_model(kind: type, config: Any) -> torch.nn.Module:
    """Return a reference model in which no weight stands at its initial zero or one, so that a mix-up shows."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def calm_branches(model: torch.nn.Module) -> None:
    """Let each residual branch add a fifth of what it starts with, about as in a trained network: without, the values of
    fifty layers are in the hundreds, and so is their rounding.
    """
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ in ("ResNetBasicLayer", "ResNetBottleNeckLayer"):
                module.layer[-1].normalization.weight.mul_(0.2)


def settle_batch_norms(model: torch.nn.Module, size: int) -> None:
    """Give batch normalisations the statistics of noise, as training would: with others, values grow block by block."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, size, size))
    model.eval()


def random_photos(size: tuple[int, int]) -> np.ndarray:
    """Return two photos of noise `[2, H, W, 3]` uint8."""
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)


def as_pixels(photos: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Return photos as the reference's preprocessing gives them: normalised, channels first."""
    pixels = (photos / 255.0 - np.array(mean)) / np.array(std)
    return torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)


def compare(model: torch.nn.Module, encoder: torch.nn.Module, outputs: Callable[[str], Outputs]) -> Comparison:
    """Save the reference, load it as ours, and compare the outputs."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        pairs = {name: (np.asarray(ours), theirs.numpy()) for name, (ours, theirs) in outputs(folder).items()}
    return Comparison(
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        errors={name: float(np.abs(ours - theirs).max()) for name, (ours, theirs) in pairs.items()},
        scales={name: float(np.abs(theirs).max()) for name, (_, theirs) in pairs.items()},
    )


SMALL_CASES: dict[str, Callable[[], Comparison]] = {
    "BERT": lambda: compare_bert(vocab_size=50, **SMALL),
    "BERT, tanh GELU": lambda: compare_bert(vocab_size=50, hidden_act="gelu_new", **SMALL),
    "ViT": lambda: compare_vit(image_size=32, patch_size=8, **SMALL),
    "ViT, other size": lambda: compare_vit((48, 40), image_size=32, patch_size=8, **SMALL),
    "DINOv2": lambda: compare_dinov2((40, 24), image_size=56, patch_size=8, **DINOV2_SMALL),
    "CLIP": lambda: compare_clip(
        {"vocab_size": 50, **SMALL}, {"image_size": 32, "patch_size": 8, **SMALL}, projection_dim=16
    ),
    "ResNet": lambda: compare_resnet(48, embedding_size=8, hidden_sizes=[16, 32, 64], depths=[2, 1, 2]),
}
DINOV2_SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
REAL_CASES: dict[str, Callable[[], Comparison]] = {
    "BERT base (bert-base-uncased)": compare_bert,
    "BERT, 6 blocks of 384 (MiniLM-L6)": lambda: compare_bert(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "ViT-B/16, 224 px (vit-base-patch16-224)": compare_vit,
    "ViT-B/16 loaded at 384 x 256 px": lambda: compare_vit((384, 256)),
    "DINOv2 ViT-S/14, 518 loaded at 224 px": lambda: compare_dinov2(
        224, hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, layerscale_value=0.5
    ),
    "DINOv2 ViT-B/14, 518 loaded at 224 px": lambda: compare_dinov2(
        224, image_size=518, patch_size=14, layerscale_value=0.5
    ),
    "CLIP ViT-B/32 (clip-vit-base-patch32, FashionCLIP)": lambda: compare_clip({}, {}),
    "CLIP ViT-B/16 (clip-vit-base-patch16)": lambda: compare_clip({}, {"patch_size": 16}),
    "ResNet-50 v1.5 (resnet-50)": lambda: compare_resnet(224),
}


def table(cases: dict[str, Callable[[], Comparison]]) -> str:
    """Run the comparisons and return them as a table in Markdown."""
    lines = ["| encoder | parameters | output | largest value | largest difference |", "|---|---|---|---|---|"]
    for name, case in cases.items():
        result = case()
        size = f"{result.parameters / 1e6:.1f} M" if result.parameters > 1e5 else f"{result.parameters / 1e3:.0f} k"
        for output, error in result.errors.items():
            lines.append(f"| {name} | {size} | {output} | {result.scales[output]:.2f} | {error:.1e} |")
            print(lines[-1], flush=True)
            if error > TOLERANCE:
                raise SystemExit(f"{name}: {output} differs by {error}, more than {TOLERANCE}")
    return "\n".join(lines)


def main() -> None:
    """Measure all families and write the tables into the document."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/encoders.md"))
    path = parser.parse_args().out
    text = path.read_text(encoding="utf-8")
    for mark, cases in (("small", SMALL_CASES), ("published", REAL_CASES)):
        marks = rf"(<!-- parity {mark} -->\n).*?(<!-- end -->)"
        filled = table(cases)
        text = re.sub(marks, lambda found, filled=filled: f"{found[1]}{filled}\n{found[2]}", text, flags=re.S)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
