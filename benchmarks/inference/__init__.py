"""What a forward pass costs under every method, at matched model, rank, batch and length."""
