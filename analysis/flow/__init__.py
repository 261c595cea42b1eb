"""The flow of gradients over depth: measures of runs, rows of them, and pairs with LoRA's."""
