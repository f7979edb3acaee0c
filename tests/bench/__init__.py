"""Benches: what the product costs in time, beside the alternative or the limit measured in the same run.

For: `scripts/bench [NAME…]`, which runs `python -m tests.bench`. Each module here named after a row of the table in
`docs/explanation/performance.md` is one bench: `measure(stage_folder, runs)` returns its `Report`.
Promises: real processes throughout; medians of several runs with their spread; a target that is missed is said, in the
table and in the JSON; nothing here asserts a time, so no test depends on the machine.
Must not know: how a figure came about elsewhere; peers' figures are quoted with their source.
"""
