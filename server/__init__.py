"""The server: rounds, validation and sums, checkpoints, journal."""
