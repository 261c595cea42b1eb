"""What adapters cost on a language model: a training step, prefill, decoding, memory."""
