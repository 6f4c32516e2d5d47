"""What planned bit widths are worth: loss of a small language model with the same bytes spent evenly and by running smoothness."""
