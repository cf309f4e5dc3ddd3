"""Options of the alignment system: an attribute encoder brought into the space of a frozen image encoder."""

from dataclasses import dataclass, field

from tfrec.config import RunConfig, TrainingConfig
from tfrec.evaluation.names import match_names


@dataclass
class AlignedAttributes:
    """The attribute encoder.

    Args:
        fields: attribute fields to use; None uses all of the dataset.
        min_count: values rarer than this share one "unknown" id.
        max_values: values of a field that are read of an item; how many further ones there are is logged.
        dim: width of a field's token.
        hidden_dim: hidden width of the perceptron over all fields.
        dropout: dropout rate of that hidden layer.
    """

    fields: list[str] | None = None
    min_count: int = 2
    max_values: int = 8
    dim: int = 64
    hidden_dim: int = 512
    dropout: float = 0.1


@dataclass
class AlignedImage:
    """The image encoder, which is frozen.

    Args:
        weights: published weights: a folder, `hf://ORG/NAME` or `keras://resnet50`; None keeps random ones. They bring the
            encoder's sizes with them: from `patch` to `heads`, nothing counts then.
        size: height and width that photos are resized to, in pixels.
        patch: side of a square patch in pixels.
        stem_convolutions: convolutions of stride 2 before the patches.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
    """

    weights: str | None = None
    size: tuple[int, int] = (224, 224)
    patch: int = 16
    stem_convolutions: int = 0
    dim: int = 768
    layers: int = 12
    heads: int = 12


@dataclass
class AlignmentModelConfig:
    """Attributes on one side, photos on the other.

    Args:
        attributes: the encoder that trains.
        image: the encoder that is frozen.
        dim: width of the common space; both sides are unit vectors in it.
        project: put a trained linear layer behind the image encoder; None: only where its vectors are of another width.
    """

    attributes: AlignedAttributes = field(default_factory=AlignedAttributes)
    image: AlignedImage = field(default_factory=AlignedImage)
    dim: int = 512
    project: bool | None = None


@dataclass
class AlignmentTask:
    """InfoNCE in two stages.

    Args:
        temperature: divides the cosine.
        stage1_epochs: passes in which the attribute encoder learns alone, to know a garment from two views of its
            attributes; 0 leaves the stage out.
        view_dropout: probability that a view of stage 1 loses a field.
        field_dropout: probability that a training item of stage 2 loses a field.
    """

    temperature: float = 0.07
    stage1_epochs: int = 10
    view_dropout: float = 0.3
    field_dropout: float = 0.1


@dataclass
class AlignmentConfig(RunConfig):
    """Alignment: attributes find photos, and photos their attributes.

    Args:
        data: the prepared dataset, with photos, attributes and a split of its items.
        features: what `python -m tfrec.encode` made of the photos; made in the run's folder where empty.
    """

    features: str = ""
    model: AlignmentModelConfig = field(default_factory=AlignmentModelConfig)
    task: AlignmentTask = field(default_factory=AlignmentTask)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(monitor="photo_mrr"))

    def monitors(self) -> list[str]:
        return [*match_names("photo", "attributes"), "positive_cosine", "loss"]
