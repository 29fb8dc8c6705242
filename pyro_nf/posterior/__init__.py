"""What to do with a trained guide."""
