"""Pages, charts and explanations of what a trained model does."""
