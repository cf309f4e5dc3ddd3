"""Options of pretraining: encoders taught by the catalogue itself, where no published weights can be had."""

from dataclasses import dataclass, field

from tfrec.config import RunConfig, TrainingConfig
from tfrec.evaluation.names import match_names


@dataclass
class PretrainImage:
    """The image encoder to train.

    Args:
        enabled: train one; without it the text encoder learns from masked words alone.
        size: height and width of the photos in pixels.
        patch: side of a square patch in pixels.
        stem_convolutions: convolutions of stride 2 before the patches; small encoders learn faster with them.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
    """

    enabled: bool = True
    size: tuple[int, int] = (96, 72)
    patch: int = 12
    stem_convolutions: int = 0
    dim: int = 128
    layers: int = 4
    heads: int = 4


@dataclass
class PretrainText:
    """The text encoder to train.

    Args:
        vocabulary_size: WordPiece vocabulary trained on the catalogue.
        length: tokens of a text; longer texts are cut.
        attributes: also read the values of the item's attributes, in random order, behind its text.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
    """

    vocabulary_size: int = 4096
    length: int = 48
    attributes: bool = True
    dim: int = 128
    layers: int = 4
    heads: int = 4


@dataclass
class PretrainModelConfig:
    """Two encoders.

    Args:
        image: of the photos.
        text: of the texts.
        dim: width of the common space that pooled vectors are projected to.
    """

    image: PretrainImage = field(default_factory=PretrainImage)
    text: PretrainText = field(default_factory=PretrainText)
    dim: int = 128


@dataclass
class PretrainTask:
    """What the encoders learn from.

    Args:
        mlm: weight of predicting masked words (BERT, https://arxiv.org/abs/1810.04805); 0: none.
        contrastive: weight of telling photos and texts of one item from those of others (CLIP,
            https://arxiv.org/abs/2103.00020); 0: none, and no image encoder, which learns from this alone.
        mask_rate: share of the words that are masked.
        temperature: at the start; it is learned.
        shift: photos are moved by up to this share of their sides, and mirrored half of the time.
        held_share: of the training items, held out where the dataset has no validation items.
    """

    mlm: float = 1.0
    contrastive: float = 1.0
    mask_rate: float = 0.15
    temperature: float = 0.07
    shift: float = 0.1
    held_share: float = 0.1


@dataclass
class PretrainConfig(RunConfig):
    """Pretraining on a catalogue; items of the test split are never read.

    Args:
        out: the run's folder, which other recipes take as `--model.text.weights` and `--model.image.weights`.
    """

    model: PretrainModelConfig = field(default_factory=PretrainModelConfig)
    task: PretrainTask = field(default_factory=PretrainTask)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(monitor="photo_mrr"))

    def __post_init__(self) -> None:
        if not self.reads_photos and self.training.monitor in match_names("photo", "text"):
            self.training.monitor = "loss"  # nothing finds photos where there are none

    @property
    def reads_photos(self) -> bool:
        """Whether there is an image encoder to train."""
        return self.model.image.enabled and self.task.contrastive > 0

    def monitors(self) -> list[str]:
        words = ["words_loss", "loss"] if self.task.mlm else []
        return words + (match_names("photo", "text") if self.reads_photos else [])
