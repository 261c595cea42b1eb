"""Parameter-efficient fine-tuning methods: the contract in `base`, then one file a method."""
