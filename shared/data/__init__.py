"""Interactions in: read, cleaned, indexed, and split into histories and queries."""
