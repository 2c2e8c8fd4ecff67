"""Benchmarks: ``python -m tests.bench [group]``; a group is a module ``bench_<group>`` with ``run()``."""
