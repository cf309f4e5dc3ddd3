"""Options of the alignment system: an attribute encoder brought into the space of a frozen image encoder."""

from dataclasses import dataclass, field

from tfrec.config import ImageConfig, RunConfig, TrainingConfig
from tfrec.evaluation.names import match_names


@dataclass
class AlignedAttributes:
    """The attribute encoder.

    Args:
        fields: attribute fields to use; None uses all of the dataset.
        min_count: values rarer than this share one "unknown" id.
        dim: width of a field's token.
        hidden_dim: hidden width of the perceptron over all fields.
        dropout: dropout rate of that hidden layer.
    """

    fields: list[str] | None = None
    min_count: int = 2
    dim: int = 64
    hidden_dim: int = 512
    dropout: float = 0.1


@dataclass
class AlignmentModelConfig:
    """Attributes on one side, photos on the other.

    Args:
        attributes: the encoder that trains.
        image: the encoder that is frozen; without `weights` it keeps its random ones.
        dim: width of the common space; both sides are unit vectors in it.
        project: put a trained linear layer behind the image encoder; None: only where its vectors are of another width.
    """

    attributes: AlignedAttributes = field(default_factory=AlignedAttributes)
    image: ImageConfig = field(default_factory=ImageConfig)
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
