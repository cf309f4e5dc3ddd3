"""Metrics, protocols, baselines and their intervals."""
