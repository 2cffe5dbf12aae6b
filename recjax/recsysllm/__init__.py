"""RecSysLLM: recommendation as blank infilling, on GLM (2308.10837).

All of it so far is NumPy alone, no JAX.
"""
