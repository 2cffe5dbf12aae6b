"""An LLM beside a recommender: it scores items and users on aspects that a person understands."""
