"""Encoders of item content: photos, texts and attributes to tokens, with published weights."""
