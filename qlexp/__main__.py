"""`python -m qlexp` is the `qlexp` command."""

from qlexp.main import main

main()
