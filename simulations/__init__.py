"""Simulations: a data set as a population of users, one run, and the `fedrec` command."""
