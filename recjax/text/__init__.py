"""Words about the data: tokenizers, prompts, histories as text, token batches, titles in answers.

NumPy alone, no JAX; a tokenizer's engine is imported when one is read.
"""
