"""recjax: large language models for sequential recommendation in JAX and Flax."""

__version__ = "0.1.0"
