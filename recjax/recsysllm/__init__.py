"""RecSysLLM: recommendation as blank infilling, on GLM (2308.10837).

`run` is the system; `sources` gives its texts, `spans` and `blanks` make batches of them (NumPy
alone), `measure` fills held-out blanks. `dynamic` runs inside a jitted loop.
"""
