"""Speed and memory as ratios against the plain way, in one run; the tables are in docs/benchmarks.md."""
