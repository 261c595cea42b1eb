"""Methods compared on language models: `qlexp-lm`, its tasks, its training and its measurements."""
