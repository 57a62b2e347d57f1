"""Evaluation: metrics, rankings and the protocols that make scores comparable."""
