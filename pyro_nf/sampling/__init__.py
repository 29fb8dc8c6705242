"""What a log density tells without training."""
