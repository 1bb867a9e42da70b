"""`infra/dev/bench`: what Tidemark costs, in ratios to what it cannot do without and to what it replaces.

Every figure is a ratio of two things measured in one run, in turns, forwards and backwards, on pinned cores. The unit is
CPU time by process over a fixed count of events: on a shared machine wall-clock time moves by half where CPU time moves
by a few hundredths. A measure first shows that every acknowledged event is in the log once and in the tables once;
without that it raises `Wrong` and there is no figure.
"""
