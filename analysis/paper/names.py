"""What claims of the paper speak of: the names of its methods, and what is little."""

LORA, QUERYABLE, INSTRUCTED = "lora", "queryable", "instruction_queryable"
PAPER = "arXiv 2605.08423"
SETTLED = 1.1  # the ratio up to which a difference is little
