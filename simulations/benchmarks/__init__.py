"""Benchmarks: measurements that a person starts, each printing one JSON object."""
