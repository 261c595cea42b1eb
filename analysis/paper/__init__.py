"""What is said of queryable LoRA alone: the only place in analysis/ that names it."""
