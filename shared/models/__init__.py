"""Models: global tensors, and scores computed from a history."""
