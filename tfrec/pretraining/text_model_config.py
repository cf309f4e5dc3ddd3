"""Options of the causal text model: the next word of a catalogue's texts."""

from dataclasses import dataclass, field

from tfrec.config import RunConfig, TrainingConfig


@dataclass
class TextModelConfig:
    """The model.

    Args:
        vocabulary_size: words, the most frequent ones of the training texts; others are one unknown word.
        length: words read of a text.
        dim: width.
        layers: transformer blocks.
        heads: attention heads.
        ratio: feed-forward width over `dim`.
        dropout: dropout rate.
    """

    vocabulary_size: int = 8192
    length: int = 64
    dim: int = 128
    layers: int = 4
    heads: int = 4
    ratio: float = 4.0
    dropout: float = 0.1


@dataclass
class TextTask:
    """The objective.

    Args:
        label_smoothing: share of the target that is spread over the whole vocabulary.
        test_share: of the texts, held out for the test, where the dataset has no test items; as many are for validation.
    """

    label_smoothing: float = 0.1
    test_share: float = 0.1


@dataclass
class CausalTextConfig(RunConfig):
    """A causal model of the catalogue's words."""

    model: TextModelConfig = field(default_factory=TextModelConfig)
    task: TextTask = field(default_factory=TextTask)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(monitor="loss"))

    def monitors(self) -> list[str]:
        return ["loss", "perplexity", "accuracy"]
