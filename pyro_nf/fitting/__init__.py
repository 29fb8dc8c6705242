"""From a model to a trained guide."""
