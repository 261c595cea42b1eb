"""`python -m qlexp.lm` is `qlexp-lm`."""

from qlexp.lm.main import main

main()
