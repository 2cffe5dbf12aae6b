"""RecSysLLM: recommendation as blank infilling, on GLM (2308.10837).

`dynamic` runs inside a jitted loop; all else is NumPy alone, no JAX.
"""
