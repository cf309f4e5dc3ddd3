"""First stages on a catalogue's own texts and photos: masked words, image-text contrast, and a small causal text model."""
