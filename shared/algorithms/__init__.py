"""Learning methods: device half and server half side by side."""
