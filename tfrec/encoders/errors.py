"""What encoders and tokenizers raise."""


class EncoderError(ValueError):
    """Arguments of an encoder or a tokenizer that do not fit together; the message names them and the fix."""
